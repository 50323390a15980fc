package report

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// OpenLogs opens what pflogd writes at path (/var/log/pflog) and what newsyslog(8) has made of
// it by rotating: path.0, path.1.gz and so on. The files come oldest first, each once, also
// while newsyslog is at work: it renames a file that pflogd continues to write to until it is
// signalled, and for a while the same log is there as path.0 and, growing, as path.0.gz. The
// caller closes them. Missing files are no error; what stands in the place of one is.
//
// Where path is a symbolic link, or its directory is, that is resolved once ([resolve]), and
// rotated files are looked for beside the link and beside the file.
//
// It needs to be root on OpenBSD, where they have mode 0600.
func OpenLogs(path string) ([]*os.File, error) {
	real, err := resolve(path)
	if err != nil {
		return nil, fmt.Errorf("pflogd's file %w", err)
	}
	files, err := openRotated(real)
	if dir, e := filepath.EvalSymlinks(filepath.Dir(path)); err == nil && real != path && e == nil && filepath.Join(dir, filepath.Base(path)) != real {
		var beside []*os.File
		if beside, err = openRotated(filepath.Join(dir, filepath.Base(path))); err != nil {
			closeAll(files)
		}
		// Rotated by the link's name means renamed from there: older than the file itself.
		files = once(append(beside, files...))
	}
	if err != nil {
		return nil, fmt.Errorf("pflogd's files: %w", err)
	}
	return files, nil
}

// openRotated opens the file at path and the rotated ones beside it.
func openRotated(path string) ([]*os.File, error) {
	const tries = 10
	for try := 1; ; try++ {
		files, err := openLogs(path)
		if err != nil {
			return nil, err
		}
		if try == tries || unmoved(path, files) {
			return once(files), nil
		}
		closeAll(files)
		time.Sleep(50 * time.Millisecond)
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// rotation returns where in the order a name stands: 0 for path itself, n+1 for path.n
// and path.n.gz.
func rotation(base, name string) (int, bool) {
	if name == base {
		return 0, true
	}
	n, ok := strings.CutPrefix(name, base+".")
	if !ok {
		return 0, false
	}
	n = strings.TrimSuffix(n, ".gz")
	i, err := strconv.Atoi(n)
	return i + 1, err == nil && i >= 0 && strconv.Itoa(i) == n
}

// logNames returns the names of the logs, oldest first. Where path.n.gz is beside
// path.n, gzip(1) is at work, or was when it died: the plain one is whole.
func logNames(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	var names []string
	for _, e := range entries {
		n, ok := rotation(base, e.Name())
		if ok && e.Type().IsRegular() {
			names = append(names, e.Name())
		} else if ok && n == 0 && e.Type() != fs.ModeSymlink {
			return nil, fmt.Errorf("%s is not a regular file", path)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		i, _ := rotation(base, a)
		j, _ := rotation(base, b)
		if i != j {
			return j - i
		}
		return len(a) - len(b)
	})
	return slices.CompactFunc(names, func(a, b string) bool {
		i, _ := rotation(base, a)
		j, _ := rotation(base, b)
		return i == j
	}), nil
}

func openLogs(path string) ([]*os.File, error) {
	names, err := logNames(path)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, n := range names {
		// It was a regular file a moment ago.
		f, err := os.OpenFile(filepath.Join(filepath.Dir(path), n), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // renamed or removed just now: unmoved will see
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// unmoved reports whether the names still belong to the files that were opened under
// them, and there are no others.
func unmoved(path string, files []*os.File) bool {
	names, err := logNames(path)
	if err != nil || len(names) != len(files) {
		return false
	}
	for i, f := range files {
		opened, err := f.Stat()
		if err != nil || filepath.Base(f.Name()) != names[i] {
			return false
		}
		now, err := os.Lstat(f.Name())
		if err != nil || !os.SameFile(opened, now) {
			return false
		}
	}
	return true
}

// once leaves of the same log one file: the same inode under two names, or the
// compressed and the plain one. The plain one is whole.
func once(files []*os.File) []*os.File {
	var kept []*os.File
	for _, f := range files {
		twin := slices.IndexFunc(kept, func(k *os.File) bool { return sameLog(k, f) })
		if twin < 0 {
			kept = append(kept, f)
			continue
		}
		// Later in the order is newer or plain.
		kept[twin].Close()
		kept = append(slices.Delete(kept, twin, twin+1), f)
	}
	return kept
}

func sameLog(a, b *os.File) bool {
	ia, errA := a.Stat()
	ib, errB := b.Stat()
	if errA != nil || errB != nil {
		return false
	}
	if os.SameFile(ia, ib) {
		return true
	}
	ra, dataA, okA := firstRecord(a)
	rb, dataB, okB := firstRecord(b)
	return okA && okB && ra.Equal(rb) && bytes.Equal(dataA, dataB)
}

// firstRecord distinguishes logs: no two begin with the same packet.
func firstRecord(f *os.File) (time.Time, []byte, bool) {
	fr, err := logReader(f)
	if err != nil {
		return time.Time{}, nil, false
	}
	data, ci, err := fr.ZeroCopyReadPacketData()
	return ci.Timestamp, bytes.Clone(data), err == nil
}

// FlushPflogd asks every pflogd(8) to write out what it has in memory, as newsyslog.conf
// does for another purpose: it signals, with SIGALRM, the processes of that name that
// run as root without a terminal; pflogd's parent passes it on. It needs root, and must
// be called before pledge(2): nothing short of "ps proc" allows it. The error says that
// there is none, or wraps errors.ErrUnsupported on other systems.
func FlushPflogd() error {
	table, err := processes()
	if err != nil {
		return fmt.Errorf("pflogd: %w", err)
	}
	pids := pflogdPIDs(table)
	if len(pids) == 0 {
		return errors.New("pflogd: not running")
	}
	for _, pid := range pids {
		if err := sendAlarm(pid); err != nil {
			return fmt.Errorf("pflogd: signal process %d: %w", pid, err)
		}
	}
	return nil
}

// Offsets in struct kinfo_proc (sys/sysctl.h), which has no pointers and is the same on
// all architectures and in all releases that we know. The kernel copies as much of it as
// is asked for.
const (
	procPID  = 108 // p_pid
	procUID  = 128 // p_uid
	procRUID = 132 // p_ruid
	procTTY  = 212 // p_tdev
	procComm = 312 // p_comm
	procSize = procComm + 24
)

// pflogdPIDs picks processes out of what sysctl kern.proc returned.
func pflogdPIDs(table []byte) []int {
	const noTTY = ^uint32(0) // NODEV
	ne := binary.NativeEndian
	var pids []int
	for ; len(table) >= procSize; table = table[procSize:] {
		p := table[:procSize]
		name, _, _ := bytes.Cut(p[procComm:], []byte{0})
		pid := int(int32(ne.Uint32(p[procPID:])))
		if string(name) == "pflogd" && pid > 1 && ne.Uint32(p[procUID:]) == 0 && ne.Uint32(p[procRUID:]) == 0 && ne.Uint32(p[procTTY:]) == noTTY {
			pids = append(pids, pid)
		}
	}
	return pids
}
