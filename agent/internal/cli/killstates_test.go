package cli

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/pfsim"
)

// connect adds the state of a connection with an address.
func (h *daemonHost) connect(dir pfioctl.Direction, from string) {
	h.t.Helper()
	peer, me := netip.MustParseAddr(from), netip.MustParseAddrPort("198.18.0.1:22")
	if peer.Is6() {
		me = netip.MustParseAddrPort("[fd00::1]:22")
	}
	h.kernel.AddState(pfsim.State{Iface: "em0", Dir: dir, Proto: 6, Wire: pfsim.Key{netip.AddrPortFrom(peer, 40000), me}})
}

// connected lists with which addresses there are states.
func (h *daemonHost) connected() string {
	var all []string
	for _, s := range h.kernel.States() {
		all = append(all, s.Wire[0].Addr().String())
	}
	return strings.Join(all, " ")
}

// With KILL_STATES the connections of newly blocked addresses end, and only
// those: not at the first sync, when all is new to the daemon, and not of
// addresses that were blocked before.
func TestDaemonKillsStates(t *testing.T) {
	h := newDaemonHost(t)
	h.conf["KILL_STATES"] = "yes"
	h.connect(pfioctl.DirIn, "10.0.0.1")
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.connect(pfioctl.DirOut, "10.0.0.2")
	h.connect(pfioctl.DirIn, "10.0.0.9")
	h.connect(pfioctl.DirIn, "8.8.8.8")
	h.connect(pfioctl.DirOut, "2001:db9::1")
	if strings.Contains(h.log.String(), "states killed") {
		t.Error("states were killed at the first sync")
	}
	if got := h.connected(); got != "10.0.0.1 10.0.0.2 10.0.0.9 8.8.8.8 2001:db9::1" {
		t.Fatalf("connected with %s", got)
	}

	// The policy is known from one life of the daemon to the next, which polls
	// at once.
	poll := func(list ...string) {
		t.Helper()
		h.serve(blockList, list...)
		h.signals <- syscall.SIGHUP
		h.until("enforced", func() bool { return slices.Equal(h.table(blockTable), list) })
	}
	poll("10.0.0.1", "10.0.0.2", "10.0.0.8/30", "2001:db8::/31")
	h.until("killed", h.says("states killed"))
	if got := h.connected(); got != "10.0.0.1 10.0.0.2 8.8.8.8" {
		t.Errorf("connected with %s", got)
	}
	expect(t, h.log.String(), "states killed considered=5 killed=2 left=0 ")

	// No more is done when it is off, which the next reading of the
	// configuration says.
	h.conf["KILL_STATES"] = "no"
	h.writeConf()
	poll("8.8.8.8", "10.0.0.1")
	h.until("reported", h.says("blocked=2 "))
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := h.connected(); got != "10.0.0.1 10.0.0.2 8.8.8.8" {
		t.Errorf("connected with %s", got)
	}
	if n := strings.Count(h.log.String(), "states killed"); n != 1 {
		t.Errorf("reported %d times", n)
	}
}

// Where states cannot be read or killed that is reported, and the policy is in
// force all the same.
func TestDaemonCannotKillStates(t *testing.T) {
	h := newDaemonHost(t)
	h.conf["KILL_STATES"] = "yes"
	h.start()
	h.until("enforced", h.says("policy enforced"))
	h.connect(pfioctl.DirIn, "10.0.0.9")
	h.kernel.SetSecurelevel(2)
	h.serve(blockList, "10.0.0.1", "10.0.0.9")
	h.signals <- syscall.SIGHUP
	h.until("reported", h.says("pf: kill state: "+syscall.EPERM.Error()))
	if got := h.table(blockTable); !slices.Contains(got, "10.0.0.9") {
		t.Errorf("block table %v", got)
	}
	h.stop()
	expect(t, h.log.String(), "killed=0 left=1 ", "securelevel 2")
}
