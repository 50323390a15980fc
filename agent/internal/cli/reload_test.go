package cli

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/threatstopd/pfioctl"
)

// A configuration with other tables and files needs another process: the roles end, and
// the program begins again. The old table stays as it was.
func TestDaemonBeginsAgain(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()
	h.packet(pfioctl.DirIn, "10.0.0.1", "198.18.0.1")
	h.seen(1)

	h.conf["BLOCK_TABLE"] = "another"
	h.conf["BLOCK_FILE"] = filepath.Join(h.dir, "another")
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("begun again", func() bool { return strings.Count(h.log.String(), "INF started") == 2 })
	another := pfioctl.Table{Name: "another"}
	h.until("enforced", func() bool { return strings.Count(h.log.String(), "policy enforced") == 2 })
	if got := h.table(another); len(got) != 5 {
		t.Errorf("the other table has %v", got)
	}
	if got := h.table(blockTable); len(got) != 5 {
		t.Errorf("the table before has %v", got)
	}
	if text, err := os.ReadFile(filepath.Join(h.dir, "another")); err != nil || !strings.Contains(string(text), "10.0.0.1\n") {
		t.Errorf("%q, %v", text, err)
	}
	// What was seen before has been delivered.
	h.until("delivered", func() bool { return len(h.collector.Receipts()) == 1 })
	// The sockets are there as before.
	_, stdout, stderr := h.run("--status")
	expect(t, stdout+stderr, "another")
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A configuration that another process cannot begin with is refused, and the daemon keeps the current one: with
// what it knows, and also where it finds that out only after it was executed again.
func TestDaemonKeepsItsConfiguration(t *testing.T) {
	h := newDaemonHost(t)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	for i, c := range []struct{ key, value, want string }{
		{"BLOCK_FILE", "/does/not/exist", "directory of the persist files /does/not: no such file or directory"},
		{"OUT_DIR", "/dev/null", "directory of the persist files /dev/null: "},
	} {
		before := h.conf[c.key]
		h.conf[c.key] = c.value
		h.writeConf()
		h.signals <- syscall.SIGHUP
		h.until("kept", func() bool {
			return strings.Count(h.log.String(), "invalid configuration, keeping the current one") == i+1
		})
		expect(t, h.log.String(), c.want)
		h.sync(1)
		h.until("reported", func() bool {
			_, stdout, _ := h.run("--status")
			return strings.Contains(flat(stdout), c.want)
		})
		if h.conf[c.key] = before; before == "" {
			delete(h.conf, c.key)
		}
	}
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("well", h.well)
}

// The program is executed again by the system where there is one for that.
func TestDaemonExecutesItself(t *testing.T) {
	h := newDaemonHost(t)
	h.reexec = func(*os.File) error {
		if _, err := os.Stat(h.socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
		return errors.New("execute /usr/local/sbin/threatstopd again: permission denied")
	}
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.conf["KILL_STATES"] = "yes"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("reported", h.says("permission denied"))
	if code := h.stop(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if got := h.table(blockTable); !slices.Contains(got, "10.0.0.1") {
		t.Errorf("block table %v", got)
	}
}

// A configuration that only changes options is taken over by the processes that there
// are: the role that reports is started anew when it is concerned, and not otherwise.
func TestDaemonReloadKeepsProcesses(t *testing.T) {
	h := newDaemonHost(t)
	delete(h.conf, "CA_FILE") // which may be another one each time
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.reads()
	h.conf["NEVER_BLOCK"] = "10.0.0.1"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("enforced", func() bool { return !slices.Contains(h.table(blockTable), "10.0.0.1") })
	const start = "pflogd not asked"
	if n := strings.Count(h.log.String(), start); n != 1 {
		t.Errorf("the role that reports was started %d times", n)
	}
	h.conf["UPLOAD_INTERVAL"] = "20m"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("started anew", func() bool { return strings.Count(h.log.String(), start) == 2 })
	if n := strings.Count(h.log.String(), "INF started"); n != 1 {
		t.Errorf("begun %d times", n)
	}
	h.packet(pfioctl.DirIn, "10.0.0.2", "198.18.0.1")
	h.seen(1)
}

// What a confined main process may not ask pf for, it does not, also where the room is
// short.
func TestDaemonAsksOnlyWhatIsAllowed(t *testing.T) {
	h := newDaemonHost(t)
	h.kernel.SetLimit(pfioctl.LimitTableEntries, 12) // a reload does not fit, nor do old and new together
	h.serve(blockList, hosts(6, "10.7.%d.%d")...)
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.serve(blockList, hosts(7, "10.8.%d.%d")...)
	_, stdout, stderr := h.run("--sync-now", "--force")
	expect(t, stdout+stderr, "Table ThreatSTOP-Block: 7 added, 6 deleted")
	_, stdout, stderr = h.run("--status")
	expect(t, stdout+stderr, "pf.conf cannot be loaded again")
	h.stop()
	if strings.Contains(h.log.String(), "not allowed under the promise") {
		t.Error("it asked for what is not allowed")
	}
}

// A socket for monitoring that cannot be had does not keep the daemon from its work,
// at its start and when a configuration asks for it: the status shows it.
func TestDaemonWithoutSocketForMonitoring(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	h := newDaemonHost(t)
	h.conf["METRICS"] = taken.Addr().String()
	h.statusSocket = filepath.Join(filepath.Dir(h.socket), "status")
	h.start()
	h.until("enforced", h.says("policy enforced"))
	code, stdout, stderr := h.run("--status")
	expect(t, stdout+stderr, "METRICS: metrics at "+taken.Addr().String()+": listen: ")
	if code != 1 {
		t.Errorf("--status: exit code %d", code)
	}
	h.conf["STATUS_GROUP"] = "no_such_group"
	h.writeConf()
	h.signals <- syscall.SIGHUP
	h.until("begun again", func() bool { return strings.Count(h.log.String(), "INF started") == 2 })
	h.until("reported", h.says("make it with groupadd no_such_group"))
	h.until("answers", func() bool {
		_, stdout, _ := h.run("--status")
		return strings.Contains(stdout, "STATUS_GROUP: unix socket ")
	})
}
