package check

import (
	"example.org/threatstopd/pfioctl"
)

// A fate is what the rules have made of a packet so far.
type fate struct {
	rule *pfioctl.Rule // the last that matched and passes or blocks; nil: none, which passes
	by   *pfioctl.Rule // the rule that called the anchor it stands in
	over *pfioctl.Rule // the last block rule that was overruled since
	// logs are the pflogN that a block is logged to; matches those that a match
	// rule with log (matches) has every later rule log to.
	logs, matches uint64
}

func (f *fate) blocks() bool { return f.rule != nil && f.rule.Action == pfioctl.ActionBlock }

// logBit is the place of pflogN in a fate's logs. There are hardly more of them.
func logBit(n int) uint64 { return 1 << min(max(n, 0), 63) }

// A frame is a ruleset in which a packet is looked at, and where it goes on
// behind it.
type frame struct {
	rs   *pfioctl.Ruleset
	call *pfioctl.Rule // that called it, nil for the main ruleset
	// ends is the quick rule whose call ends here, if this is the last ruleset
	// that it evaluates.
	ends *pfioctl.Rule
	up   *frame
	next int // rule of up
}

// A leaf is a set of packets with the same fate.
type leaf struct {
	box  box
	fate fate
}

// maxSteps bounds how many rules are looked at, maxLeaves how many parts the
// packets may fall into. Rulesets that people write stay far below.
const (
	maxSteps  = 4_000_000
	maxLeaves = 20_000
)

// A walk sends all packets of a space through the rules.
type walk struct {
	s      *space
	steps  int
	leaves []leaf
	cut    bool // not all of it could be walked
}

// evaluate returns what becomes of all packets of the space.
func (s *space) evaluate(rs *pfioctl.Ruleset) *walk {
	w := &walk{s: s}
	w.from(s.whole(), fate{}, &frame{rs: rs}, 0)
	return w
}

func (w *walk) end(b box, f fate) {
	if len(w.leaves) >= maxLeaves {
		w.cut = true
		return
	}
	w.leaves = append(w.leaves, leaf{b, f})
}

// from goes on at rule i of a frame (pf.c: pf_match_rule). The last rule that
// matches decides, and a quick one ends it.
func (w *walk) from(b box, f fate, at *frame, i int) {
	for {
		if w.steps++; w.steps > maxSteps || w.cut {
			w.cut = true
			return
		}
		if i >= len(at.rs.Rules) {
			if at.up == nil || at.ends != nil && f.by == at.ends {
				// A quick anchor ends evaluation when a rule in it decided
				// (pf.c: pf_step_into_anchor).
				w.end(b, f)
				return
			}
			at, i = at.up, at.next
			continue
		}
		r := &at.rs.Rules[i]
		i++
		in, rest := b.split(w.s.conditions[r])
		if in == nil || len(rest) > 0 && w.idle(r, &f) {
			continue
		}
		if len(rest) > 0 && !r.Quick {
			if q := w.ahead(b, at, i-1); q != nil {
				w.end(b, f.after(q, at.call))
				return
			}
		}
		if r.Call != "" {
			to, first := enter(r, at, i)
			if to == nil {
				continue
			}
			w.from(in, f, to, first)
		} else if g := f.after(r, at.call); r.Quick {
			w.end(in, g)
		} else {
			w.from(in, g, at, i)
		}
		if len(rest) == 0 {
			return
		}
		for _, piece := range rest[1:] {
			w.from(piece, f, at, i)
		}
		b = rest[0]
	}
}

// ahead returns the rule that decides on all packets of a box whatever the rules
// from i on up to it make of them: a quick one that matches them all, with no
// other behind which evaluation could end or go elsewhere. Then those need not be
// told apart.
func (w *walk) ahead(b box, at *frame, i int) *pfioctl.Rule {
	for ; i < len(at.rs.Rules); i++ {
		r := &at.rs.Rules[i]
		c := w.s.conditions[r]
		switch {
		case !b.meets(c):
		case r.Call != "" || r.Action == pfioctl.ActionMatch && (r.Quick || r.Log&pfioctl.LogMatches != 0):
			return nil
		case r.Quick && b.inside(c):
			return r
		case r.Quick:
			return nil
		}
	}
	return nil
}

// enter returns where evaluation goes on inside an anchor, nil if there is
// nothing in it.
func enter(r *pfioctl.Rule, at *frame, next int) (*frame, int) {
	up, i := at, next
	for n := len(r.Called) - 1; n >= 0; n-- {
		f := &frame{rs: r.Called[n], call: r, up: up, next: i}
		if r.Quick && len(r.Called) == 1 && !wildcard(r.Call) {
			f.ends = r
		}
		up, i = f, 0
	}
	if up == at {
		return nil, 0
	}
	return up, 0
}

func wildcard(call string) bool { return len(call) > 0 && call[len(call)-1] == '*' }

// idle reports whether a rule, matched or not, leaves packets as they are: then
// they need not be told apart.
func (w *walk) idle(r *pfioctl.Rule, f *fate) bool {
	if r.Call != "" || r.Quick || w.s.quickAnchor {
		return false
	}
	switch r.Action {
	case pfioctl.ActionMatch:
		return r.Log&pfioctl.LogMatches == 0
	case pfioctl.ActionBlock:
		return f.blocks() && f.after(r, nil).logs == f.logs
	default:
		// That no rule has matched is told apart while there is not too much of it.
		return !f.blocks() && (f.rule != nil || len(w.leaves) > 500)
	}
}

// after returns the fate of packets that match a rule.
func (f fate) after(r, by *pfioctl.Rule) fate {
	if r.Action == pfioctl.ActionMatch {
		if r.Log&pfioctl.LogMatches != 0 {
			f.matches |= logBit(r.LogIf)
		}
		return f
	}
	if r.Action == pfioctl.ActionBlock {
		f.over, f.logs = nil, f.matches
		if r.Log != 0 {
			f.logs |= logBit(r.LogIf)
		}
	} else {
		if f.blocks() {
			f.over = f.rule
		}
		f.logs = 0
	}
	f.rule, f.by = r, by
	return f
}
