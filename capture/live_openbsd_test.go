package capture

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestLive opens a pflog interface of the running kernel, one that does not exist
// yet, reads, destroys it under the reader, and leaves the host as it was. No rule
// logs to it. It needs root, and THREATSTOPD_LIVE=1 to say that this may be done here.
func TestLive(t *testing.T) {
	if os.Getenv("THREATSTOPD_LIVE") != "1" {
		t.Skip("THREATSTOPD_LIVE=1 is not set")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const destroyInterface = 0x80206979 // SIOCIFDESTROY, sys/sockio.h
	name := ""
	for n := 15; n > 0 && name == ""; n-- {
		if errors.Is(aboutInterface(t, siocGetFlags, fmt.Sprintf("pflog%d", n)), syscall.ENXIO) {
			name = fmt.Sprintf("pflog%d", n)
		}
	}
	if name == "" {
		t.Skip("all pflog interfaces exist")
	}
	r, err := Open(Options{Interface: name})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	gone := false
	destroy := func() {
		if err := aboutInterface(t, destroyInterface, name); err != nil && !gone {
			t.Errorf("%s: SIOCIFDESTROY: %v", name, err)
		}
		gone = true
	}
	defer destroy()
	t.Logf("%s: two buffers of %d bytes", name, len(r.buf))
	for range 3 {
		if b, err := r.read(); err != nil || len(b) != 0 {
			t.Errorf("read of a silent interface: %d bytes, %v", len(b), err)
		}
	}
	if s, err := r.Stats(); err != nil || s != (Stats{}) {
		t.Errorf("stats %+v, %v", s, err)
	}
	if _, err := Open(Options{Interface: "pflog"}); err == nil {
		t.Error("an interface without a number was opened")
	}
	closing, err := Open(Options{Interface: name})
	if err != nil {
		t.Fatal(err)
	}
	var closed time.Time
	time.AfterFunc(50*time.Millisecond, func() { closed = time.Now(); closing.Close() })
	if _, _, err := closing.ZeroCopyReadPacketData(); err != io.EOF || time.Since(closed) > 500*time.Millisecond {
		t.Errorf("a read ended %v after Close: %v", time.Since(closed), err)
	}
	destroy()
	if _, _, err := r.ZeroCopyReadPacketData(); !errors.Is(err, ErrInterfaceGone) {
		t.Errorf("read after the interface was destroyed: %v", err)
	}
	if _, err := r.Stats(); !errors.Is(err, ErrInterfaceGone) {
		t.Errorf("stats after the interface was destroyed: %v", err)
	}
}

// aboutInterface makes a request about an interface.
func aboutInterface(t *testing.T, req uint, name string) error {
	s, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var arg ifreq
	copy(arg.name[:], name)
	return s.ioctl(req, unsafe.Pointer(&arg))
}
