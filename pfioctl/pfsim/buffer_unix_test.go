//go:build unix

package pfsim

import (
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

func TestBufferEndsWhereItEnds(t *testing.T) {
	for _, size := range []int{0, 1, 52, 4096, 5000} {
		b, err := MapBuffer(size)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Bytes()) != size {
			t.Errorf("%d bytes, want %d", len(b.Bytes()), size)
		}
		for i := range b.Bytes() {
			b.Bytes()[i] = 1
		}
		whole := make([]byte, size)
		if size > 0 && copyin(whole, b.Pointer(), 0, size) != 1 {
			t.Errorf("a buffer of %d bytes cannot be read", size)
		}
		if copyin(make([]byte, size+1), b.Pointer(), 0, size+1) != 0 {
			t.Errorf("a buffer of %d bytes can be read beyond its end", size)
		}
		if copyout(b.Pointer(), 0, make([]byte, size+1), size+1) != 0 {
			t.Errorf("a buffer of %d bytes can be written beyond its end", size)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
	if _, err := MapBuffer(-1); err == nil {
		t.Error("a buffer of negative size was mapped")
	}
}

// readOnly maps b's bytes where they can be read and not written.
func readOnly(t *testing.T, b []byte) *Buffer {
	t.Helper()
	buf := mapBuffer(t, len(b))
	copy(buf.Bytes(), b)
	if err := unix.Mprotect(buf.mem[:len(buf.mem)-unix.Getpagesize()], unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { buf.Close() })
	return buf
}

// TestAnswerCannotBeWritten gives requests memory that they can read only:
// what fails where, and what was done by then.
func TestAnswerCannotBeWritten(t *testing.T) {
	k := New(Options{})
	x := makeTable(t, k, "t", pfioctl.TablePersist)
	set := func() {
		t.Helper()
		must(t, x.call(k.req.SetAddrs, x.io(0, array(elements("10.0.0.1"), 0), 1)))
	}
	set()
	for _, c := range []struct {
		name  string
		nr    uint
		flags abi.RequestFlags
		want  error
		after []element
	}{
		{"SETADDRS", k.req.SetAddrs, 0, nil, elements("10.0.0.2")},
		{"SETADDRS with feedback", k.req.SetAddrs, abi.FlagFeedback, syscall.EFAULT, elements("10.0.0.1")},
		{"ADDADDRS", k.req.AddAddrs, 0, nil, elements("10.0.0.1", "10.0.0.2")},
		{"ADDADDRS with feedback", k.req.AddAddrs, abi.FlagFeedback, syscall.EFAULT, elements("10.0.0.1", "10.0.0.2")},
		{"ADDADDRS with feedback, dummy", k.req.AddAddrs, abi.FlagFeedback | abi.FlagDummy, syscall.EFAULT, elements("10.0.0.1")},
		{"DELADDRS with feedback", k.req.DelAddrs, abi.FlagFeedback, syscall.EFAULT, elements("10.0.0.1")},
		{"TSTADDRS", k.req.TstAddrs, 0, syscall.EFAULT, elements("10.0.0.1")},
		{"GETADDRS", k.req.GetAddrs, 0, syscall.EFAULT, elements("10.0.0.1")},
		{"CLRASTATS with feedback", k.req.ClrAStats, abi.FlagFeedback, syscall.EFAULT, elements("10.0.0.1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			set()
			io := x.io(c.flags, nil, 1)
			io.Buffer = readOnly(t, array(elements("10.0.0.2"), 0)).Pointer()
			if err := x.call(c.nr, io); err != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
			if got := x.content(); !slices.Equal(got, c.after) {
				t.Errorf("table is %v, want %v", got, c.after)
			}
			checkKernel(t, k)
		})
	}
	t.Run("the struct itself", func(t *testing.T) {
		set()
		io := x.io(0, nil, 0)
		b := readOnly(t, bytesOf(io))
		if err := x.d.Ioctl(k.req.SetAddrs, b.Pointer()); err != syscall.EFAULT {
			t.Errorf("%v, want EFAULT", err)
		}
		if got := x.content(); len(got) != 0 {
			t.Errorf("the kernel had emptied the table by then; it is %v", got)
		}
	})
	t.Run("DIOCXBEGIN", func(t *testing.T) {
		e := abi.PfiocTransE{Type: transTable}
		io := abi.PfiocTrans{Size: 1, Esize: int32(transSize), Array: readOnly(t, bytesOf(&e)).Pointer()}
		if err := x.d.Ioctl(k.req.XBegin, unsafe.Pointer(&io)); err != syscall.EFAULT {
			t.Errorf("%v, want EFAULT", err)
		}
		if !k.main.topen {
			t.Error("the transaction was not begun")
		}
	})
}
