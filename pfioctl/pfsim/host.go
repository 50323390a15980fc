package pfsim

import (
	"encoding/binary"
	"math/bits"
	"runtime"

	"example.org/threatstopd/pfioctl"
)

// hostArch is the architecture whose structs this program's requests are made
// of. OpenBSD's layouts go by pointer size, byte order and, with 32 bits, the
// alignment of 64-bit members, which only matters in what is read by offset.
func hostArch() string {
	if _, err := pfioctl.LayoutFor("7.8", runtime.GOARCH); err == nil {
		return runtime.GOARCH
	}
	big := binary.NativeEndian.Uint16([]byte{0, 1}) == 1
	switch {
	case bits.UintSize == 32:
		return "386"
	case big:
		return "ppc64"
	}
	return "amd64"
}
