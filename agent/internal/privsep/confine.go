package privsep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Confinement is what Confine has to know of this run.
type Confinement struct {
	// Paths has the paths that the table of roles names by a key: every key of the role. An empty
	// path is not used.
	Paths map[string]string
	// UID and GID are those of the service user, which a process of root becomes. Zero: it stays root.
	UID, GID int
	// Names: host names are looked up, which needs the resolver's files.
	Names bool
	// AsUser, unless nil, is called when the process is the service user and still sees the file
	// system: to try what that user may do.
	AsUser func() `json:"-"`
	// Memory bounds the memory of the process, in bytes: see [Memory]. Zero: no bound.
	Memory uint64
}

// Confiner confines the process that calls it, for good.
type Confiner interface {
	Confine(role string, c Confinement) error
}

// System returns the Confiner of this system. On OpenBSD it applies the table of roles. Elsewhere it
// does what every system can: no core dumps, bounded memory.
//
// Before it the process has opened what the role holds, and has loaded what the standard library loads
// on first use, such as the pool of certificates; Confine loads the time zone.
func System() Confiner { return system{} }

type system struct{}

func (system) Confine(role string, c Confinement) error {
	steps, err := plan(role, c)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("confine %s: %s: %w", role, s.text, err)
		}
	}
	return nil
}

// Plan returns what [System] would do on OpenBSD, one step a line: for tests.
func Plan(role string, c Confinement) (all []string, err error) {
	steps, err := plan(role, c)
	for _, s := range steps {
		all = append(all, s.text)
	}
	return all, err
}

// step is one call of a Confiner.
type step struct {
	text string
	do   func() error
}

func plan(role string, c Confinement) (steps []step, err error) {
	i := slices.IndexFunc(Roles, func(r Role) bool { return r.Name == role })
	if i < 0 {
		return nil, fmt.Errorf("confine %s: no such role", role)
	}
	r := Roles[i]
	seen, err := visible(r, c)
	if err != nil {
		return nil, err
	}
	add := func(text string, do func() error) { steps = append(steps, step{text, do}) }
	add("rlimit core 0", func() error { return limit(unix.RLIMIT_CORE, 0) })
	// It is read from the disk on first use.
	add("load the time zone", func() error { _, _ = time.Now().Local().Zone(); return nil })
	if c.Memory > 0 {
		add(fmt.Sprintf("rlimit data %d", c.Memory), func() error { return limitMemory(c.Memory) })
	}
	if r.Promises == "" {
		add("rlimit nproc 0", noProcesses)
	}
	if r.User == "USER" && c.UID != 0 {
		add(fmt.Sprintf("become %d:%d", c.UID, c.GID), func() error {
			if os.Geteuid() != 0 {
				return nil
			}
			return become(c.UID, c.GID)
		})
	}
	if c.AsUser != nil {
		add("try as that user", func() error { c.AsUser(); return nil })
	}
	for _, p := range seen {
		add("unveil "+p.Literal+" "+p.Permissions, func() error { return show(unveil, p.Literal, p.Permissions) })
	}
	if len(seen) == 0 {
		add("unveil / nothing", func() error { return unveil("/", "") })
	}
	add("unveil no more", unveilNoMore)
	if promises := promised(r, c.Names); promises != "" {
		add("pledge "+promises, func() error { return pledge(promises) })
	}
	return steps, nil
}

// show unveils a path. A path out of reach anyway is left out, since opening it later reports the reason: a
// directory on the way is missing, is not a directory or is closed to the user, or the path is missing on a
// read-only file system (unveil(2) looks it up as if it were to be created, vfs_syscalls.c: sys_unveil;
// /etc/hosts may be missing there). It may have been the only path, so that everything else is hidden.
func show(unveil func(path, permissions string) error, path, permissions string) error {
	err := unveil(path, permissions)
	if slices.ContainsFunc([]error{fs.ErrNotExist, fs.ErrPermission, syscall.ENOTDIR, syscall.EROFS}, func(e error) bool { return errors.Is(err, e) }) {
		return unveil("/", "")
	}
	return err
}

// promised returns the promises of a role.
func promised(r Role, names bool) string {
	if names && r.NamePromises != "" {
		return r.Promises + " " + r.NamePromises
	}
	return r.Promises
}

// visible returns the paths that a role sees, each with its Literal and Permissions.
func visible(r Role, c Confinement) ([]Path, error) {
	var seen []Path
	for _, p := range r.Unveil {
		path, ok := p.Literal, true
		if p.Key != "" {
			path, ok = c.Paths[p.Key]
		}
		switch {
		case !ok:
			return nil, fmt.Errorf("confine %s: path of %s missing", r.Name, p.Key)
		case path == "", p.Names && !c.Names:
			continue
		case !strings.HasPrefix(path, "/"):
			return nil, fmt.Errorf("confine %s: %s: %s is not absolute", r.Name, p.Key, path)
		}
		seen = append(seen, Path{Literal: path + p.Suffix, Permissions: p.Permissions})
	}
	return seen, nil
}

// The bound of a role's memory: the program, the runtime's tables and an arena of the heap, which is
// taken in pieces of 64 MB; and for each entry two policies, the one in force and the next.
const (
	memoryBase  = 256 << 20
	memoryEntry = 128
	arena       = 64 << 20 // of Go's heap on 64 bits
)

// Memory returns the bound for a role that holds up to so many entries (MAX_ENTRIES).
func Memory(entries int) uint64 { return memoryBase + memoryEntry*uint64(max(0, entries)) }

// limit lowers both limits of a resource.
func limit(resource int, most uint64) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(resource, &l); err != nil {
		return err
	}
	l.Cur, l.Max = min(l.Cur, most), min(l.Max, most)
	return unix.Setrlimit(resource, &l)
}

// limitMemory bounds the data segment, which on OpenBSD and Linux is all memory that is private and
// writable. The runtime collects garbage before that is reached.
func limitMemory(most uint64) error {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &before); err != nil {
		return err
	}
	most = min(most, before.Cur)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: before.Max}); err != nil {
		return err
	}
	// A kernel that counts what is only reserved would soon end the process: Go reserves much and uses
	// little, and the race detector reserves terabytes. There the limit is taken back.
	b, err := syscall.Mmap(-1, 0, arena, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return unix.Setrlimit(unix.RLIMIT_DATA, &before)
	}
	if err := syscall.Munmap(b); err != nil {
		return err
	}
	debug.SetMemoryLimit(int64(most / 4 * 3))
	return limit(unix.RLIMIT_DATA, most)
}
