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
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/pfioctl"
)

// Target is a table and the persist file that pf.conf loads it from.
type Target struct {
	Table pfioctl.Table
	File  string // absolute; empty when the table has no file
	Load  bool   // set the table; false (RELOAD_PF=no) only asks pf whether it would accept the policy
}

// Result is what Apply found and did. It is meaningful together with an
// error too: InForce and FileWritten then say how far it came.
type Result struct {
	Table       pfioctl.Table
	Entries     int           // of the policy, `!` entries included
	InForce     int           // what pf counts in the table now; -1 when it has no such table
	Delta       pfioctl.Delta // what was changed in the table, or with Load false would be
	Created     bool          // the table did not exist
	Steps       int           // SETADDRS calls that it took: 0 when nothing was to change
	FileWritten bool          // the persist file was replaced
	Rules       int           // loaded rules and anchors that refer to the table
}

// Unchanged is how many of the policy's entries were in the table before.
func (r Result) Unchanged() int { return r.Entries - r.Delta.Added - r.Delta.Changed }

// Enforcer sets tables through one open /dev/pf.
type Enforcer struct {
	pf   *pfioctl.PF
	disk osDisk
	made made // the policy of the last run
	seen evaluations
}

// New returns an Enforcer that works through pf.
func New(pf *pfioctl.PF) *Enforcer { return &Enforcer{pf: pf} }

// OpenDirs opens the directories of persist files, which have to be flushed when a
// file in them is replaced: a process that unveil(2) shows only the files themselves
// calls it before. One that does not exist is passed over, since nothing can be written
// there either. It is called once; Close closes them.
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

// InForce returns how many entries pf has in the table, -1 when there is no
// such table.
func (e *Enforcer) InForce(t pfioctl.Table) (int, error) {
	st, ok, err := e.stats(t)
	if err != nil || !ok {
		return -1, err
	}
	return st.Addresses, nil
}

// Apply brings the table to want and then the file: see the package comment.
// header is written on top of a file that has to be replaced. The table is
// created, with PERSIST, where it does not exist.
//
// An error names the table or the file, why, and what to do; unless it says
// otherwise what was in force before is in force still.
func (e *Enforcer) Apply(t Target, want Entries, header Header) (Result, error) {
	res := Result{Table: t.Table, Entries: want.Len(), InForce: -1}
	if err := e.set(t, want, &res); err != nil {
		return res, err
	}
	st, ok, err := e.stats(t.Table)
	if err != nil {
		return res, fmt.Errorf("pf table %s: read back: %w", t.Table, err)
	}
	if ok {
		res.InForce, res.Rules = st.Addresses, st.Rules+st.Anchors
	}
	if t.Load && res.InForce != want.Len() {
		return res, fmt.Errorf("pf table %s: holds %d entries after it was set to %d: something else writes to it; the persist file is left as it was", t.Table, res.InForce, want.Len())
	}
	if t.File == "" {
		return res, nil
	}
	file, err := checkFile(t.File, want)
	if err == nil {
		if file.Same && file.Held.Equal(header.Held) {
			return res, nil
		}
		err = writeFile(e.disk, t.File, header, want)
	}
	if err != nil && t.Load {
		err = fmt.Errorf("%w; pf has the policy, but at a reboot or `pfctl -f` it loads what the file has", err)
	}
	res.FileWritten = err == nil
	return res, err
}

// Hold notes in the persist file that a policy is held back since header.Held:
// see MarkHeld. A file that is missing is written from what is in force, since
// pf.conf does not load without it.
func (e *Enforcer) Hold(t Target, header Header) error {
	if _, err := os.Lstat(t.File); !errors.Is(err, fs.ErrNotExist) || !t.Load {
		return markHeld(e.disk, t.File, header.Held)
	}
	addrs, err := e.pf.Get(t.Table)
	if err != nil {
		return err
	}
	header.Server, header.Counts = "", fmt.Sprintf("%d entries, as they were in pf", len(addrs))
	return writeFile(e.disk, t.File, header, kernelEntries(addrs))
}

// kernelEntries are Entries as the kernel gave them.
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

// Read returns what pf has in a table, as a set of one list with the given name. It is empty when there is
// no such table.
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

// set asks pf what want would change, and changes it.
func (e *Enforcer) set(t Target, want Entries, res *Result) error {
	array, err := fill(want)
	if err != nil {
		return fmt.Errorf("pf table %s: %w", t.Table, err)
	}
	defer array.Close()

	// DUMMY does everything but the change: it is the comparison with what
	// is in force, and the proof that pf will take the policy.
	delta, err := e.pf.Compare(t.Table, array)
	if errors.Is(err, syscall.ESRCH) {
		if !t.Load {
			// Nothing to compare with. What pf.conf then loads must at
			// least fit.
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
	delta, err = e.pf.SetAddrs(t.Table, array)
	if err != nil {
		return err
	}
	res.Delta, res.Steps = delta, 1
	return nil
}

// setInTwoSteps sets a table for which pf has no room while old and new stand
// side by side: pf frees the old entries last (pf_table.c: pfr_set_addrs). The
// first step keeps what both have, together with every `!` of the new, so that
// at no time more is blocked than the old or the new policy blocks; the second
// goes to the new.
func (e *Enforcer) setInTwoSteps(t pfioctl.Table, array *pfioctl.Addrs, want Entries, cause error, res *Result) error {
	old, err := e.pf.Get(t)
	if err != nil {
		return fmt.Errorf("%w; and what is in force cannot be read: %w", cause, err)
	}
	used, limit, err := e.room()
	if err != nil {
		return fmt.Errorf("%w; and the room cannot be read: %w", cause, err)
	}
	if used-len(old)+want.Len() > limit {
		return cause // the new policy alone does not fit: the error has the numbers
	}
	array.Reset()
	if err := appendAll(array, firstStep(want, old)); err != nil {
		return fmt.Errorf("pf table %s: first of two steps: %w", t, err)
	}
	first := array.Len()
	one, err := e.pf.SetAddrs(t, array)
	if err != nil {
		return fmt.Errorf("%w (first of two steps)", err)
	}
	res.Delta, res.Steps = one, 1
	array.Reset()
	if err := appendAll(array, want.All()); err != nil {
		return fmt.Errorf("pf table %s: second of two steps: %w", t, err)
	}
	two, err := e.pf.SetAddrs(t, array)
	if err != nil {
		return fmt.Errorf("pf table %s: holds the %d entries that the old and the new policy have in common; second of two steps: %w", t, first, err)
	}
	res.Delta.Added += two.Added
	res.Delta.Deleted += two.Deleted
	res.Delta.Changed += two.Changed
	res.Steps = 2
	return nil
}

// firstStep returns the entries of want that old has, regardless of the negation of
// either, and every `!`. Both are in pf's order.
func firstStep(want Entries, old []pfioctl.Addr) iter.Seq2[netip.Prefix, bool] {
	return func(yield func(netip.Prefix, bool) bool) {
		j := 0
		for p, not := range want.All() {
			for j < len(old) && compare(old[j].Prefix, p) < 0 {
				j++
			}
			keep := not || j < len(old) && old[j].Prefix == p
			if keep && !yield(p, not) {
				return
			}
		}
	}
}

// compare orders prefixes as pf lists them: IPv4 before IPv6, by address, and
// the longest of an address first.
func compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c // netip, too, has IPv4 before IPv6
	}
	return b.Bits() - a.Bits()
}

// room returns the entries in use in all tables, and the limit.
func (e *Enforcer) room() (used, limit int, err error) {
	if used, _, err = e.pf.Used(); err == nil {
		limit, err = e.pf.Limit(pfioctl.LimitTableEntries)
	}
	return used, limit, err
}

// fits refuses n more entries where the limit has no room for them.
func (e *Enforcer) fits(t pfioctl.Table, n int) error {
	used, limit, err := e.room()
	if err != nil {
		return err
	}
	if used+n > limit {
		return &pfioctl.Error{Op: "check", Table: t, Count: n, Used: used, Limit: limit, Err: syscall.ENOMEM}
	}
	return nil
}

// ReloadAdvice reports whether pf.conf could be loaded again with n entries in
// the persist files of this policy: `pfctl -f` builds the new tables beside the
// old ones, and when they do not fit the whole ruleset is refused. It returns
// what to write into pf.conf, empty when all is well.
func (e *Enforcer) ReloadAdvice(n int) (string, error) {
	used, limit, err := e.room()
	if err != nil {
		return "", err
	}
	if used+n <= limit {
		return "", nil
	}
	return fmt.Sprintf("pf.conf cannot be loaded again (used %d + files %d > limit %d): %s", used, n, limit, pfioctl.AdviseEntries(used)), nil
}

func (e *Enforcer) stats(t pfioctl.Table) (pfioctl.TableStats, bool, error) {
	tables, err := e.pf.Tables(t.Anchor)
	if err != nil {
		return pfioctl.TableStats{}, false, err
	}
	for _, st := range tables {
		if st.Table == t && st.Flags&pfioctl.TableActive != 0 {
			return st, true, nil
		}
	}
	return pfioctl.TableStats{}, false, nil
}

// fill puts the entries into an array outside the heap.
func fill(want Entries) (*pfioctl.Addrs, error) {
	a, err := pfioctl.NewAddrs(want.Len())
	if err != nil {
		return nil, err
	}
	if err := appendAll(a, want.All()); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func appendAll(a *pfioctl.Addrs, entries iter.Seq2[netip.Prefix, bool]) error {
	for p, not := range entries {
		if err := a.Append(p, not); err != nil {
			return err
		}
	}
	return nil
}

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
