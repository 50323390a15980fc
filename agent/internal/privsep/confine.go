package privsep

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
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
	// Paths are those that the table of roles names by a key. Each key that the role
	// has must be there; one that is empty is not used.
	Paths map[string]string
	// UID and GID are of the service user. A process that is root becomes that user;
	// zero: it stays what it is.
	UID, GID int
	// Names: host names are looked up, which takes the resolver's files.
	Names bool
	// AsUser is called when the process is the service user, and still sees the file
	// system: to try what that user may do. Nil: nothing is tried.
	AsUser func() `json:"-"`
	// Memory bounds the memory of the process, in bytes: see [Memory]. Zero: no bound.
	// A process under the race detector has none.
	Memory uint64
}

// Confiner confines the process that calls it, for the rest of its life.
type Confiner interface {
	Confine(role string, c Confinement) error
}

// System returns the Confiner of this system. On OpenBSD it does what the table of roles
// says. Elsewhere it does what every system has: no core dumps, bounded memory.
//
// Before it the process has opened what the role holds and has loaded what the standard
// library loads when first asked, such as the pool of certificates; the time zone Confine
// sees to.
func System() Confiner { return system{} }

type system struct{}

func (system) Confine(role string, c Confinement) error {
	steps, err := plan(role, c)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if !confines && !s.everywhere {
			continue
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("confine %s: %s: %w", role, s.text, err)
		}
	}
	return nil
}

// Plan returns what [System] would do on OpenBSD, one step a line: for tests.
func Plan(role string, c Confinement) ([]string, error) {
	steps, err := plan(role, c)
	var all []string
	for _, s := range steps {
		all = append(all, s.text)
	}
	return all, err
}

// step is one call of a Confiner.
type step struct {
	text       string
	everywhere bool // other systems have it too
	do         func() error
}

func plan(role string, c Confinement) ([]step, error) {
	i := slices.IndexFunc(Roles, func(r Role) bool { return r.Name == role })
	if i < 0 {
		return nil, fmt.Errorf("confine %s: no such role", role)
	}
	r := Roles[i]
	steps := []step{
		{"rlimit core 0", true, func() error { return limit(unix.RLIMIT_CORE, 0) }},
		// The zone is read from the disk when it is first used.
		{"load the time zone", true, func() error { _, _ = time.Now().Local().Zone(); return nil }},
	}
	if c.Memory > 0 {
		steps = append(steps, step{fmt.Sprintf("rlimit data %d", c.Memory), true, func() error { return limitMemory(c.Memory) }})
	}
	if r.Promises == "" {
		// Threads are not counted there.
		steps = append(steps, step{"rlimit nproc 0", false, func() error { return limit(unix.RLIMIT_NPROC, 0) }})
	}
	if r.User == "USER" && c.UID != 0 {
		steps = append(steps, step{fmt.Sprintf("become %d:%d", c.UID, c.GID), false, func() error {
			if os.Geteuid() != 0 {
				return nil // it could not, and need not
			}
			return become(c.UID, c.GID)
		}})
	}
	if c.AsUser != nil {
		steps = append(steps, step{"try as that user", true, func() error { c.AsUser(); return nil }})
	}
	seen, err := visible(r, c)
	if err != nil {
		return nil, err
	}
	if r.Unveil != nil {
		for _, p := range seen {
			steps = append(steps, step{fmt.Sprintf("unveil %s %s", p.Literal, p.Permissions), false, func() error { return show(unveil, p.Literal, p.Permissions) }})
		}
		if len(seen) == 0 {
			steps = append(steps, step{"unveil / nothing", false, func() error { return unveil("/", "") }})
		}
		steps = append(steps, step{"unveil no more", false, unveilNoMore})
	}
	if promises := promised(r, c.Names); promises != "" {
		steps = append(steps, step{"pledge " + promises, false, func() error { return pledge(promises) }})
	}
	return steps, nil
}

// show makes a path visible. One that the process could not reach anyway, because a
// directory on the way is missing, is none or is closed to its user, is left out; whoever
// opens it will say so. So is one that is missing on a file system that cannot be written
// to: unveil(2) looks for it as if it were to be made (vfs_syscalls.c: sys_unveil), and
// /etc/hosts may well be missing there. As that may have been the only one, it is made sure
// that the rest is out of sight.
func show(unveil func(path, permissions string) error, path, permissions string) error {
	err := unveil(path, permissions)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EROFS) {
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
		if p.Names && !c.Names {
			continue
		}
		if p.Key != "" {
			path, ok := c.Paths[p.Key]
			if !ok {
				return nil, fmt.Errorf("confine %s: nobody says where %s is", r.Name, p.Key)
			}
			if path == "" {
				continue
			}
			if !strings.HasPrefix(path, "/") {
				return nil, fmt.Errorf("confine %s: %s: %s is not absolute", r.Name, p.Key, path)
			}
			p.Literal = path + p.Suffix
		}
		seen = append(seen, Path{Literal: p.Literal, Permissions: p.Permissions})
	}
	return seen, nil
}

// What the bound of a role's memory is made of: the program, the runtime's tables, an
// arena of the heap that is taken in pieces of 64 MB; and for each entry, two policies (in
// force and to come) with their indexes, in columns of up to 47 bytes an entry.
const (
	memoryBase  = 256 << 20
	memoryEntry = 128
)

// Memory returns the bound for a role that holds up to so many entries (MAX_ENTRIES).
func Memory(entries int) uint64 { return memoryBase + memoryEntry*uint64(max(0, entries)) }

// limit sets both of a resource's limits, unless they are lower.
func limit(resource int, most uint64) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(resource, &l); err != nil {
		return err
	}
	l.Cur, l.Max = min(l.Cur, most), min(l.Max, most)
	return unix.Setrlimit(resource, &l)
}

// arena is in what pieces Go's heap grows on 64 bits.
const arena = 64 << 20

// limitMemory bounds the data segment, which on OpenBSD and Linux is all of the memory that
// is private and writable. The runtime collects garbage before that is reached.
func limitMemory(most uint64) error {
	if raceEnabled {
		return nil // its shadow memory is terabytes
	}
	if most > math.MaxInt64 {
		return errors.New("more than there is")
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &before); err != nil {
		return err
	}
	after := unix.Rlimit{Cur: min(before.Cur, most), Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &after); err != nil {
		return err
	}
	// A kernel that counts what is merely reserved (Go reserves much, and uses
	// little) would end the process at its next breath.
	if b, err := syscall.Mmap(-1, 0, arena, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE); err != nil {
		return unix.Setrlimit(unix.RLIMIT_DATA, &before)
	} else if err := syscall.Munmap(b); err != nil {
		return err
	}
	debug.SetMemoryLimit(int64(min(uint64(after.Cur), most) / 4 * 3))
	return limit(unix.RLIMIT_DATA, most)
}
