package report

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
func OpenLogs(path string) (files []*os.File, err error) {
	real, err := resolve(path)
	if err != nil {
		return nil, fmt.Errorf("pflogd's file %w", err)
	}
	places := []string{real}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil && filepath.Join(dir, filepath.Base(path)) != real {
		// Rotated by the link's name means renamed from there: older than the file itself.
		places = append(places, filepath.Join(dir, filepath.Base(path)))
	}
	for _, path := range places {
		if files, err = openLogs(files, path); err != nil {
			closeAll(files)
			return nil, fmt.Errorf("pflogd's files: %w", err)
		}
	}
	// Only now, since a log that had just begun when it was opened may have its first record by now.
	seen := make(map[string]bool)
	files = slices.DeleteFunc(files, func(f *os.File) bool {
		first := firstRecord(f)
		twice := first != "" && seen[first]
		if seen[first] = true; twice {
			f.Close()
		}
		return twice
	})
	slices.Reverse(files)
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// openLogs adds the file at path and the rotated ones beside it to files, newest first: a rotation, which
// renames a file to the next number, can so make a file come twice, but cannot hide one. Of a log that comes
// twice the caller keeps the first: it is newer, or plain and so whole, where path.n.gz is being made of path.n.
func openLogs(files []*os.File, path string) ([]*os.File, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return files, err
	}
	base, last := filepath.Base(path), -1
	for _, e := range entries {
		n, ok := rotation(base, e.Name())
		if ok && e.Type().IsRegular() {
			last = max(last, n)
		} else if ok && n < 0 && e.Type() != fs.ModeSymlink {
			return files, fmt.Errorf("%s is not a regular file", path)
		}
	}
	for n := -1; n <= last+1; n++ {
		name := path
		if n >= 0 {
			name += "." + strconv.Itoa(n)
		}
		for _, name := range []string{name, name + ".gz"} {
			if fi, err := os.Lstat(name); err != nil || !fi.Mode().IsRegular() || n < 0 && name != path {
				continue
			}
			// It was a regular file a moment ago.
			f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue // renamed just now: it has the next number
			}
			if err != nil {
				return files, err
			}
			files = append(files, f)
			break
		}
	}
	return files, nil
}

// rotation returns the number of a rotated file, -1 for the one at base itself.
func rotation(base, name string) (int, bool) {
	if name == base {
		return -1, true
	}
	n, ok := strings.CutPrefix(name, base+".")
	n = strings.TrimSuffix(n, ".gz")
	i, err := strconv.Atoi(n)
	return i, ok && err == nil && i >= 0 && i < maxRotated && strconv.Itoa(i) == n
}

const maxRotated = 10_000 // bounds the numbers of rotated files that are looked for

// firstRecord returns the first record of a log, "" if there is none: no two logs begin with the same packet.
func firstRecord(f *os.File) string {
	fr, err := logReader(f)
	if err != nil {
		return ""
	}
	data, ci, err := fr.ZeroCopyReadPacketData()
	if err != nil {
		return ""
	}
	return ci.Timestamp.String() + string(data)
}

// checkNewest returns why what pflogd writes now, the last of files, is no capture of pflog: pflogd does not
// write to such a file. One that is empty, or has only begun, is no error.
func checkNewest(files []*os.File) error {
	if len(files) == 0 {
		return nil
	}
	f := files[len(files)-1]
	if _, err := logReader(f); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("pflogd's file %s: %w: move it away and restart pflogd", f.Name(), err)
	}
	return nil
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
		if string(name) == "pflogd" && pid > 1 && ne.Uint32(p[procTTY:]) == noTTY &&
			ne.Uint32(p[procUID:]) == 0 && ne.Uint32(p[procRUID:]) == 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}
