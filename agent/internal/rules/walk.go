package rules

import "example.org/threatstopd/pfioctl"

// A fate is what the rules have made of a packet so far.
type fate struct {
	rule *pfioctl.Rule // the last match that passes or blocks; nil: none, which passes
	by   *pfioctl.Rule // the rule that called the anchor of that rule
	over *pfioctl.Rule // the last block rule that was overruled since
	// logs are the pflogN that a block is logged to, matches those that a match rule with log (matches) has
	// every later rule log to.
	logs, matches uint64
}

func (f *fate) blocks() bool { return f.rule != nil && f.rule.Action == pfioctl.ActionBlock }

// logBit is the bit of pflogN in a fate. There are hardly more than 64 of them.
func logBit(n int) uint64 { return 1 << min(max(n, 0), 63) }

// after returns the fate of packets that match a rule.
func (f fate) after(r, by *pfioctl.Rule) fate {
	switch r.Action {
	case pfioctl.ActionMatch:
		if r.Log&pfioctl.LogMatches != 0 {
			f.matches |= logBit(r.LogIf)
		}
		return f
	case pfioctl.ActionBlock:
		f.over, f.logs = nil, f.matches
		if r.Log != 0 {
			f.logs |= logBit(r.LogIf)
		}
	default:
		if f.blocks() {
			f.over = f.rule
		}
		f.logs = 0
	}
	f.rule, f.by = r, by
	return f
}

// A place is a ruleset under evaluation, and where the evaluation continues behind it.
type place struct {
	rs   *pfioctl.Ruleset
	call *pfioctl.Rule // the rule that called it, nil for the main ruleset
	ends *pfioctl.Rule // the quick call that ends here, if this is the last ruleset that it evaluates
	up   *place
	next int // rule of up
}

// A leaf is a set of packets with the same fate.
type leaf struct {
	fate
	box box
}

// maxSteps bounds how many rules are evaluated, maxLeaves how many boxes there may be. Rulesets that people
// write stay far below both.
const (
	maxSteps  = 4_000_000
	maxLeaves = 20_000
)

// evaluate finds what becomes of all packets of the space.
func (s *space) evaluate(rs *pfioctl.Ruleset) { s.from(s.whole(), fate{}, &place{rs: rs}, 0) }

func (s *space) end(b box, f fate) {
	if s.cut = s.cut || len(s.leaves) >= maxLeaves; !s.cut {
		s.leaves = append(s.leaves, leaf{f, b})
	}
}

// from continues at rule i of a ruleset (pf.c: pf_match_rule): the last match decides, a quick one at once.
func (s *space) from(b box, f fate, at *place, i int) {
	for {
		if s.steps++; s.steps > maxSteps || s.cut {
			s.cut = true
			return
		}
		if i >= len(at.rs.Rules) {
			if at.up == nil || at.ends != nil && f.by == at.ends {
				// A quick anchor ends the evaluation if a rule in it decided (pf.c: pf_step_into_anchor).
				s.end(b, f)
				return
			}
			at, i = at.up, at.next
			continue
		}
		r := &at.rs.Rules[i]
		i++
		in, rest := b.split(s.conditions[r])
		if in == nil || len(rest) > 0 && s.idle(r, &f) {
			continue
		}
		if len(rest) > 0 && !r.Quick {
			if q := s.ahead(b, at, i-1); q != nil {
				s.end(b, f.after(q, at.call))
				return
			}
		}
		to, first := at, i
		if r.Call != "" {
			to, first = enter(r, at, i)
			s.from(in, f, to, first)
		} else if g := f.after(r, at.call); r.Quick {
			s.end(in, g)
		} else {
			s.from(in, g, at, i)
		}
		if len(rest) == 0 {
			return
		}
		for _, piece := range rest[1:] {
			s.from(piece, f, at, i)
		}
		b = rest[0]
	}
}

// ahead returns the rule that decides on all packets of a box no matter what the rules from i up to it make of
// them: a quick one that matches them all, with none before it that could end or divert the evaluation. Then
// the box need not be split.
func (s *space) ahead(b box, at *place, i int) *pfioctl.Rule {
	for ; i < len(at.rs.Rules); i++ {
		r := &at.rs.Rules[i]
		passing := r.Call == "" && !r.Quick && (r.Action != pfioctl.ActionMatch || r.Log&pfioctl.LogMatches == 0)
		if passing || !b.meets(s.conditions[r]) {
			continue
		}
		if _, rest := b.split(s.conditions[r]); len(rest) > 0 || r.Call != "" || r.Action == pfioctl.ActionMatch {
			return nil
		}
		return r
	}
	return nil
}

// enter returns where the evaluation continues inside an anchor: behind the call, if it is empty.
func enter(r *pfioctl.Rule, at *place, next int) (*place, int) {
	up, i := at, next
	for n := len(r.Called) - 1; n >= 0; n-- {
		p := &place{rs: r.Called[n], call: r, up: up, next: i}
		if wildcard := r.Call[len(r.Call)-1] == '*'; r.Quick && len(r.Called) == 1 && !wildcard {
			p.ends = r
		}
		up, i = p, 0
	}
	return up, i
}

// idle reports whether packets have the same fate whether a rule matches them or not: then they need not be
// split.
func (s *space) idle(r *pfioctl.Rule, f *fate) bool {
	switch {
	case r.Call != "":
		return len(r.Called) == 0
	case r.Quick || s.quickAnchor:
		return false
	case r.Action == pfioctl.ActionMatch:
		return r.Log&pfioctl.LogMatches == 0
	case r.Action == pfioctl.ActionBlock:
		return f.blocks() && f.after(r, nil).logs == f.logs
	}
	// That no rule has matched is a fate of its own while there are few boxes.
	return !f.blocks() && (f.rule != nil || len(s.leaves) > 500)
}
