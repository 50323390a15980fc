package capture

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"
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
		for name, req := range map[string]uint{
			"BIOCSBLEN": biocSetBufferSize, "BIOCSETF": biocSetFilter, "BIOCSETIF": biocSetInterface, "BIOCGDLT": biocGetDLT,
			"BIOCGSTATS": biocGetStats, "BIOCSRTIMEOUT": biocSetReadTimeout, "BIOCSWTIMEOUT": biocSetWaitTimeout,
			"BIOCIMMEDIATE": biocImmediate, "BIOCLOCK": biocLock,
		} {
			got := sized(req, arch)
			want, err := strconv.ParseUint(measured.Ioctls[name], 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			if uint64(got) != want {
				t.Errorf("%s on %s: %#x, want %#x", name, arch, got, want)
			}
		}
	}
}

func TestLayout(t *testing.T) {
	a := readABI(t)
	for arch, m := range a.Arch {
		s := m.Structs
		for name, want := range map[string]int{
			"length": offLength, "af": offAF, "action": offAction, "reason": offReason, "ifname": offIfname,
			"ruleset": offRuleset, "rulenr": offRuleNr, "subrulenr": offSubRuleNr, "dir": offDir,
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
			s["ifreq"].Fields["ifr_ifru"][0] != int(unsafe.Offsetof(ifreq{}.union)) {
			t.Errorf("%s: sizes differ", arch)
		}
		if n := s["timeval"].Size; n > int(unsafe.Sizeof(timeval{})) {
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
