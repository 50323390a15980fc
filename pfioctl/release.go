package pfioctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// assume finds out how to work with a release that is not known. Requests whose
// numbers do not exist are ENODEV and harmless, but under pledge(2) the end of the
// process: so this is done once, when the device is opened.
func (p *PF) assume() {
	newest := &PF{d: p.d, l: p.l.Assumed()}
	p.notice = fmt.Sprintf("OpenBSD %s is newer than this program: ", p.l.Release)
	if err := newest.plausible(); err != nil {
		p.notice += fmt.Sprintf("pf's status and rules cannot be read (%v)", err)
		return
	}
	p.l = newest.l
	p.notice += "assuming the structures of " + abi.Newest
}

// plausible returns nil if the kernel takes the requests for status and rules, and its
// answers are what structs of this layout would be, all over: they agree with each
// other and with DIOCRGETTSTATS, whose struct has been the same since 6.9.
func (p *PF) plausible() error {
	var err error
	for range 3 { // tables and rules may change between the requests
		if err = p.agree(); err == nil || errors.Is(err, errUnlike) {
			return err
		}
	}
	return err
}

// errUnlike is what does not come of a change between two requests.
var errUnlike = errors.New("not the structures of " + abi.Newest)

func (p *PF) agree() error {
	if err := p.likelyStatus(); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	rules, err := p.Rules()
	if err != nil {
		return err
	}
	all, err := p.AllTables()
	if err != nil {
		return err
	}
	if len(rules.Rules) == 0 {
		return errors.New("no rules are loaded to compare with")
	}
	tables, rulesets := tableMap(all), []*Ruleset{rules}
	for i := 0; i < len(rulesets); i++ {
		for nr, r := range rulesets[i].Rules {
			err := r.agree(tables)
			if r.Nr != nr || !r.possible() {
				err = errUnlike
			}
			if err != nil {
				return fmt.Errorf("rule %d of anchor %q: %w", nr, r.Anchor, err)
			}
			for _, called := range r.Called {
				if !slices.Contains(rulesets, called) {
					rulesets = append(rulesets, called)
				}
			}
		}
	}
	return nil
}

// agree compares the numbers of addresses in a rule that names tables with what pf counts: those of the
// table itself or, where that is not active, of the one of the main ruleset; -1 if neither is.
func (r *Rule) agree(tables map[Table]TableStats) error {
	for _, a := range []*RuleAddr{&r.Src, &r.Dst} {
		t := tables[Table{r.Anchor, a.Name}]
		if !t.Active() {
			t = tables[Table{Name: a.Name}]
		}
		if !t.Active() {
			t.Addresses = -1
		}
		if a.Type == AddrTable && a.Count != t.Addresses {
			return fmt.Errorf("%d addresses in table <%s>, pf counts %d", a.Count, a.Name, t.Addresses)
		}
	}
	return nil
}

// likelyStatus compares struct pf_status with what its members can be when rules are
// loaded. The checksum comes last: a word of it that is zero shows that members before it
// have other places.
func (p *PF) likelyStatus() error {
	b, err := p.status()
	if err != nil {
		return err
	}
	o, u32 := p.l.Status, p.l.Order().Uint32
	likely := u32(b[o.Running:]) <= 1 && u32(b[o.Debug:]) <= 7 && u32(b[o.HostID:]) != 0 &&
		p.l.Order().Uint64(b[o.Since:]) < 1<<40 && isName(abi.CString(b[o.Ifname:][:abi.IfNameSize]), abi.IfNameSize)
	for at := o.Checksum; at < o.Checksum+16; at += 4 {
		likely = likely && u32(b[at:]) != 0
	}
	if !likely {
		return errUnlike
	}
	// The number of states is also the answer to DIOCGETSTATES without a buffer.
	counted, err := p.getStates(nil, 0)
	if err != nil {
		return err
	}
	if n := int(u32(b[o.States:])); max(n, counted)-min(n, counted) > 64+counted/4 {
		return fmt.Errorf("%d states, counted %d", n, counted)
	}
	return nil
}

// possible reports whether the members of a rule have values that a rule can have.
func (r *Rule) possible() bool {
	for _, a := range []*RuleAddr{&r.Src, &r.Dst} {
		if a.Type > AddrNone || a.Port.Op == "?" || a.Port.A > 65535 || a.Port.B > 65535 ||
			!isName(a.Name, abi.TableNameSize) || (a.Type == AddrTable || a.Type == AddrDynamic) && a.Name == "" {
			return false
		}
	}
	action := r.Action == ActionPass || r.Action == ActionBlock || r.Action == ActionMatch
	af := r.AF == 0 || r.AF == abi.AFInet || r.AF == abi.AFInet6
	return action && af && r.Dir <= DirOut && r.Log < 0x20 && r.LogIf < 256 && r.RDomain >= -1 && r.RDomain < 256 &&
		r.User.Op != "?" && r.Group.Op != "?" && r.ICMPType <= 255 && r.ICMPCode <= 255 && r.Prio <= 7 &&
		isName(r.Iface, abi.IfNameSize) && isName(r.Received, abi.IfNameSize) &&
		isName(r.Tag, abi.TagNameSize) && isText(r.Label, abi.RuleLabelSize)
}

// isName reports whether a name of a field of size bytes has an end, and only
// printable characters.
func isName(s string, size int) bool { return isText(s, size) && !strings.Contains(s, " ") }

func isText(s string, size int) bool {
	return len(s) < size && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}
