package pfsim

import (
	"encoding/binary"
	"math/bits"
	"runtime"

	"example.org/threatstopd/pfioctl"
)

// hostArch is the architecture whose structs this program's requests are made
// of. Where OpenBSD does not run on this one it is another with the same
// pointers and byte order.
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
