package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl"
)

// Target is a table and the persist file that pf.conf loads it from.
type Target struct {
	Table pfioctl.Table
	File  string // absolute; empty if the table has no file
	Load  bool   // set the table; false (RELOAD_PF=no) only asks pf whether it would accept the policy
}

// Result is what Apply found and did, also if it failed: InForce and FileWritten then show how far it
// came.
type Result struct {
	Table       pfioctl.Table
	Entries     int           // of the policy, `!` entries included
	InForce     int           // what pf counts in the table now; 0 if there is no such table
	Delta       pfioctl.Delta // what was changed in the table, or with Load false would be
	Created     bool          // the table did not exist
	Steps       int           // SETADDRS calls that changed the table
	FileWritten bool          // the persist file was replaced
	Rules       int           // loaded rules and anchors that refer to the table
	Holds       bool          // pf has the policy in the table, also if the file could not be written
}

// Unchanged returns how many of the policy's entries were in the table before.
func (r Result) Unchanged() int { return r.Entries - r.Delta.Added - r.Delta.Changed }

// Enforcer sets tables through one open /dev/pf.
type Enforcer struct {
	pf   *pfioctl.PF
	disk disk
	made made // the policy of the last run
	seen evaluations
}

// New returns an Enforcer that works through pf.
func New(pf *pfioctl.PF) *Enforcer { return &Enforcer{pf: pf} }

// OpenDirs opens the directories of persist files, which must be flushed when a file in them is replaced.
// A process that unveil(2) shows only the files themselves calls it before. A directory that does not
// exist is skipped. Close closes them.
func (e *Enforcer) OpenDirs(files ...string) error {
	e.disk.dirs = make(map[string]*os.File)
	for _, name := range files {
		dir := filepath.Dir(name)
		if name == "" || e.disk.dirs[dir] != nil {
			continue
		}
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			e.Close()
			return fileError(name, "open its directory", err)
		}
		e.disk.dirs[dir] = f
	}
	return nil
}

// Close closes what OpenDirs has opened. The device stays open.
func (e *Enforcer) Close() {
	for _, f := range e.disk.dirs {
		f.Close()
	}
	e.disk.dirs = nil
}

// Apply brings the table to want and then the file: see the package comment. header is written on top of
// a file that has to be replaced. The table is created, with PERSIST, if it does not exist.
//
// An error names the table or the file, why, and what to do. What was in force before is still in force,
// unless the error reports something else.
func (e *Enforcer) Apply(t Target, want policy.Entries, header Header) (Result, error) {
	res := Result{Table: t.Table, Entries: want.Len()}
	failed := e.set(t, want, &res)
	st, _, err := e.stats(t.Table)
	res.InForce, res.Rules = st.Addresses, st.Rules+st.Anchors
	if failed != nil {
		return res, failed
	}
	if err != nil {
		return res, fmt.Errorf("pf table %s: read back: %w", t.Table, err)
	}
	if res.Holds = t.Load && res.InForce == want.Len(); t.Load && !res.Holds {
		return res, fmt.Errorf("pf table %s: holds %d entries after it was set to %d: something else writes to it; the persist file is left as it was", t.Table, res.InForce, want.Len())
	}
	if t.File == "" {
		return res, nil
	}
	same, held, err := checkFile(t.File, want)
	if err == nil && same && held.Equal(header.Held) {
		return res, nil
	}
	if err == nil {
		err = e.disk.writeFile(t.File, header, want)
	}
	if err != nil && t.Load {
		err = fmt.Errorf("%w; pf has the policy, but at a reboot or `pfctl -f` it loads what the file has", err)
	}
	res.FileWritten = err == nil
	return res, err
}

// set asks pf what want would change, and changes it.
func (e *Enforcer) set(t Target, want policy.Entries, res *Result) error {
	array, err := pfioctl.NewAddrs(want.Len())
	if err != nil {
		return fmt.Errorf("pf table %s: %w", t.Table, err)
	}
	defer array.Close()
	if err := array.Fill(want.All()); err != nil {
		return fmt.Errorf("pf table %s: %w", t.Table, err)
	}
	// DUMMY does everything but the change: it is the comparison with what is in force, and the proof that
	// pf will accept the policy.
	delta, err := e.pf.Compare(t.Table, array)
	if errors.Is(err, syscall.ESRCH) {
		if !t.Load {
			// There is nothing to compare with, but what pf.conf then loads must fit.
			res.Delta = pfioctl.Delta{Added: want.Len()}
			return e.fits(t.Table, want.Len())
		}
		if _, err = e.pf.AddTables(pfioctl.TablePersist, t.Table); err != nil {
			return err
		}
		res.Created = true
		delta, err = e.pf.Compare(t.Table, array)
	}
	switch {
	case errors.Is(err, syscall.ENOMEM) && t.Load:
		return e.setInTwoSteps(t.Table, array, want, err, res)
	case err != nil:
		return err
	case delta.Zero() || !t.Load:
		res.Delta = delta
		return nil
	}
	if delta, err = e.pf.SetAddrs(t.Table, array); err != nil {
		return err
	}
	res.Delta, res.Steps = delta, 1
	return nil
}

// setInTwoSteps sets a table if pf has no room for old and new side by side: it frees the old entries last
// (pf_table.c: pfr_set_addrs). The first step keeps what both have, with every `!` of the new, so that at
// no time more is blocked than the old or the new policy blocks; the second goes to the new.
func (e *Enforcer) setInTwoSteps(t pfioctl.Table, array *pfioctl.Addrs, want policy.Entries, cause error, res *Result) error {
	old, err := e.pf.Get(t)
	if err != nil {
		return fmt.Errorf("%w; and what is in force cannot be read: %w", cause, err)
	}
	used, limit, err := e.room()
	if err != nil {
		return fmt.Errorf("%w; and the room cannot be read: %w", cause, err)
	}
	// The limit may have been read before pf.conf changed it: with an empty table two steps do not help.
	if len(old) == 0 || used-len(old)+want.Len() > limit {
		return cause // the new policy alone does not fit: the error has the numbers
	}
	var first int
	for step, entries := range []iter.Seq2[netip.Prefix, bool]{firstStep(want, old), want.All()} {
		err := array.Fill(entries)
		if step == 0 {
			first = array.Len()
		}
		var delta pfioctl.Delta
		if err == nil {
			delta, err = e.pf.SetAddrs(t, array)
		}
		switch {
		case err != nil && step == 0:
			return fmt.Errorf("%w (first of two steps)", err)
		case err != nil:
			return fmt.Errorf("pf table %s: holds the %d entries that the old and the new policy have in common; second of two steps: %w", t, first, err)
		}
		res.Delta.Added += delta.Added
		res.Delta.Deleted += delta.Deleted
		res.Delta.Changed += delta.Changed
		res.Steps++
	}
	return nil
}

// firstStep returns the entries of want that old has, negated or not, and every `!`. Both are in pf's
// order.
func firstStep(want policy.Entries, old []pfioctl.Addr) iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for p, not := range want.All() {
			for len(old) > 0 && compare(old[0].Prefix, p) < 0 {
				old = old[1:]
			}
			if (not || len(old) > 0 && old[0].Prefix == p) && !yield(p, not) {
				return
			}
		}
	}
}

// compare orders prefixes as pf lists them: IPv4 before IPv6, by address, and the longest of an address
// first.
func compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c // netip, too, has IPv4 before IPv6
	}
	return b.Bits() - a.Bits()
}

// hold notes in the persist file that a policy is held since header.Held: see markHeld. A missing file is
// written from what is in force, since pf.conf does not load without it.
func (e *Enforcer) hold(t Target, header Header) error {
	if _, err := os.Lstat(t.File); !errors.Is(err, fs.ErrNotExist) || !t.Load {
		return e.disk.markHeld(t.File, header.Held)
	}
	addrs, err := e.pf.Get(t.Table)
	if err != nil {
		return err
	}
	header.Server, header.Counts = "", fmt.Sprintf("%d entries, as they were in pf", len(addrs))
	return e.disk.writeFile(t.File, header, kernelEntries(addrs))
}

// kernelEntries are entries as pf returns them.
type kernelEntries []pfioctl.Addr

func (k kernelEntries) Len() int { return len(k) }

func (k kernelEntries) All() iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		for _, a := range k {
			if !yield(a.Prefix, a.Not) {
				return
			}
		}
	}
}

// Read returns what pf has in a table, as a set of one list with the given name. It is nil if there is no
// such table.
func (e *Enforcer) Read(t pfioctl.Table, list string) (*policy.Set, error) {
	addrs, err := e.pf.Get(t)
	if errors.Is(err, syscall.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := policy.Build([]policy.List{{Name: list, Entries: kernelEntries(addrs)}}, nil, policy.Options{})
	if err != nil {
		return nil, err
	}
	return p.Block, nil
}

// room returns the entries in use in all tables, and the limit.
func (e *Enforcer) room() (used, limit int, err error) {
	if used, _, err = e.pf.Used(); err == nil {
		limit, err = e.pf.Limit(pfioctl.LimitTableEntries)
	}
	return used, limit, err
}

// fits refuses n more entries if the limit has no room for them.
func (e *Enforcer) fits(t pfioctl.Table, n int) error {
	used, limit, err := e.room()
	if err == nil && used+n > limit {
		err = &pfioctl.Error{Op: "check", Table: t, Count: n, Used: used, Limit: limit, Err: syscall.ENOMEM}
	}
	return err
}

// ReloadAdvice reports whether pf.conf could be loaded again with n entries in the persist files: `pfctl
// -f` builds the new tables beside the old ones, and if they do not fit, the whole ruleset is refused. It
// returns what to write into pf.conf, empty if they fit.
func (e *Enforcer) ReloadAdvice(n int) (string, error) {
	used, limit, err := e.room()
	if err != nil || used+n <= limit {
		return "", err
	}
	return fmt.Sprintf("pf.conf cannot be loaded again (used %d + files %d > limit %d): %s", used, n, limit, pfioctl.AdviseEntries(used)), nil
}

// inForce returns how many entries pf has in the table, 0 if there is no such table.
func (e *Enforcer) inForce(t pfioctl.Table) (int, error) {
	st, _, err := e.stats(t)
	return st.Addresses, err
}

// stats returns the statistics of a table; ok is false if there is no such table.
func (e *Enforcer) stats(t pfioctl.Table) (st pfioctl.TableStats, ok bool, err error) {
	tables, err := e.pf.Tables(t.Anchor)
	for _, st := range tables {
		if err == nil && st.Table == t && st.Flags&pfioctl.TableActive != 0 {
			return st, true, nil
		}
	}
	return pfioctl.TableStats{}, false, err
}
