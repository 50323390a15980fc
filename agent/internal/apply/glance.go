package apply

import (
	"errors"
	"fmt"
	"time"

	"example.org/threatstopd/pfioctl"
)

// Glance is the state of pf and of two tables, read without walking them.
type Glance struct {
	Running      bool
	Checksum     [16]byte // of the loaded ruleset
	Block, Allow TableGlance
	Known        bool   // the release's status is known: Running and Checksum have a meaning
	Notice       string // about a release that is newer than this program

	// Evaluated is true if rules were evaluated with an address and the block table
	// within the last 90 seconds, as far as glances of the same Enforcer showed it.
	Evaluated bool
}

// TableGlance is the state of one table.
type TableGlance struct {
	pfioctl.Table
	Entries int // -1: there is no such table
	Rules   int // loaded rules and anchors that refer to it
}

// NotEnforced returns why nothing of the policy has any effect, and what to do about it.
// It is empty if pf enforces the policy, or may enforce it: see Unsure.
func (g Glance) NotEnforced() string {
	switch {
	case g.Known && !g.Running:
		return "pf is disabled: pfctl -e enables it"
	case g.Block.Rules == 0:
		return fmt.Sprintf("no loaded rule refers to table <%s>: add `block drop log quick from <%s>` and `block drop log quick to <%s>` to pf.conf, and load it with pfctl -f /etc/pf.conf",
			g.Block.Table, g.Block.Table, g.Block.Table)
	}
	return ""
}

// Unsure returns why it is not known whether pf enforces the policy, "" where it is
// known. A release whose status cannot be read shows that pf is enabled only by the
// counters of the table: that they stand still may also mean that no packet came.
func (g Glance) Unsure() string {
	if g.Known || g.Evaluated || g.NotEnforced() != "" {
		return ""
	}
	return fmt.Sprintf("%s; %d rules refer to table <%s>, and pf has evaluated none of them in the last minute: `pfctl -si` shows whether pf is enabled",
		g.Notice, g.Block.Rules, g.Block.Table)
}

// Enforced reports whether pf is known to act on the policy.
func (g Glance) Enforced() bool { return g.NotEnforced() == "" && g.Unsure() == "" }

// evaluations are the counters of the block table as the last glance found them.
type evaluations struct {
	table pfioctl.Table
	count uint64
	grew  time.Time // when they were last found to have grown
}

const evaluatedFor = 90 * time.Second

func (v *evaluations) see(st pfioctl.TableStats) bool {
	n, now := st.Match+st.NoMatch, time.Now()
	if v.table == st.Table && n > v.count {
		v.grew = now
	}
	v.table, v.count = st.Table, n
	return !v.grew.IsZero() && now.Sub(v.grew) <= evaluatedFor
}

// Glance reads the state of pf and of the tables of blocked and of allowed addresses. Of
// a release whose status is not known it reads the tables alone.
func (e *Enforcer) Glance(block, allow pfioctl.Table) (Glance, error) {
	g := Glance{Notice: e.pf.Notice()}
	status, err := e.pf.Status()
	switch {
	case err == nil:
		g.Running, g.Checksum, g.Known = status.Running, status.Checksum, true
	case !errors.Is(err, pfioctl.ErrUnknownRelease):
		return g, err
	}
	for t, to := range map[pfioctl.Table]*TableGlance{block: &g.Block, allow: &g.Allow} {
		st, ok, err := e.stats(t)
		if err != nil {
			return g, err
		}
		*to = TableGlance{Table: t, Entries: -1}
		if ok {
			to.Entries, to.Rules = st.Addresses, st.Rules+st.Anchors
		}
		if t == block {
			st.Table = block
			g.Evaluated = e.seen.see(st)
		}
	}
	return g, nil
}
