package capture

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"
	"unsafe"
)

type abi struct {
	Arch map[string]struct {
		Ioctls  map[string]string
		Structs map[string]struct {
			Size   int
			Fields map[string][2]int // offset, size
		}
	}
	Reasons []string
}

func readABI(t *testing.T) (a abi) {
	b, err := os.ReadFile("testdata/bpf_abi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	if len(a.Arch) != 6 {
		t.Fatalf("%d architectures", len(a.Arch))
	}
	return a
}

func TestRequestNumbers(t *testing.T) {
	for arch, measured := range readABI(t).Arch {
		r := requestsFor(arch)
		for name, got := range map[string]uint{
			"BIOCGBLEN": r.getBufferSize, "BIOCSBLEN": r.setBufferSize, "BIOCSETF": r.setFilter,
			"BIOCSETIF": r.setInterface, "BIOCGDLT": r.getDLT, "BIOCGSTATS": r.getStats,
			"BIOCVERSION": r.version, "BIOCSRTIMEOUT": r.setReadTimeout, "BIOCSWTIMEOUT": r.setWaitTimeout,
			"BIOCIMMEDIATE": r.immediate, "BIOCLOCK": r.lock,
		} {
			want, err := strconv.ParseUint(measured.Ioctls[name], 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			if uint64(got) != want {
				t.Errorf("%s on %s: %#x, want %#x", name, arch, got, want)
			}
		}
		// sys/sockio.h; the same everywhere.
		if r.createInterface != 0x8020697a || r.getFlags != 0xc0206911 || r.setFlags != 0x80206910 {
			t.Errorf("%s: %#x %#x %#x", arch, r.createInterface, r.getFlags, r.setFlags)
		}
	}
}

func TestLayout(t *testing.T) {
	a := readABI(t)
	for arch, m := range a.Arch {
		s := m.Structs
		for name, want := range map[string]int{
			"length": offLength, "af": offAF, "action": offAction, "reason": offReason, "ifname": offIfname,
			"ruleset": offRuleset, "rulenr": offRuleNr, "subrulenr": offSubRuleNr, "uid": offUID, "pid": offPID,
			"rule_uid": offRuleUID, "rule_pid": offRulePID, "dir": offDir, "rewritten": offRewritten, "naf": offNAF,
			"saddr": offSaddr, "daddr": offDaddr, "sport": offSport, "dport": offDport,
		} {
			f, ok := s["pfloghdr"].Fields[name]
			if !ok || f[0] != want {
				t.Errorf("%s: pfloghdr.%s at %d, measured %v", arch, name, want, f)
			}
		}
		for name, want := range map[string]int{
			"bh_tstamp": bpfSec, "bh_caplen": bpfCaplen, "bh_datalen": bpfDatalen, "bh_hdrlen": bpfHdrlen,
		} {
			if f, ok := s["bpf_hdr"].Fields[name]; !ok || f[0] != want {
				t.Errorf("%s: bpf_hdr.%s at %d, measured %v", arch, name, want, f)
			}
		}
		if s["pfloghdr"].Size != HeaderLen {
			t.Errorf("%s: pfloghdr %d", arch, s["pfloghdr"].Size)
		}
		if s["ifreq"].Size != int(unsafe.Sizeof(ifreq{})) || s["bpf_stat"].Size != int(unsafe.Sizeof(bpfStat{})) ||
			s["bpf_version"].Size != int(unsafe.Sizeof(bpfVersion{})) || s["ifreq"].Fields["ifr_ifru"][0] != int(unsafe.Offsetof(ifreq{}.union)) {
			t.Errorf("%s: sizes differ", arch)
		}
		if n := s["timeval"].Size; n > len(timeval{}) {
			t.Errorf("%s: timeval has %d bytes", arch, n)
		}
	}
	if len(a.Reasons) != len(reasonNames) {
		t.Fatalf("%d reasons, measured %d", len(reasonNames), len(a.Reasons))
	}
	for i, want := range a.Reasons {
		if reasonNames[i] != want {
			t.Errorf("reason %d: %q, want %q", i, reasonNames[i], want)
		}
	}
}

func TestTimeval(t *testing.T) {
	tv := newTimeval(3*time.Second + 250*time.Millisecond)
	sec := binary.NativeEndian.Uint64(tv[:])
	var usec uint64
	if unsafe.Sizeof(uintptr(0)) == 8 {
		usec = binary.NativeEndian.Uint64(tv[8:])
	} else {
		usec = uint64(binary.NativeEndian.Uint32(tv[8:]))
	}
	if sec != 3 || usec != 250000 {
		t.Errorf("%d s %d µs", sec, usec)
	}
}
