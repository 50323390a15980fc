package pfioctl

import (
	"runtime"

	"example.org/threatstopd/pfioctl/internal/abi"
)

const runtimeArch = runtime.GOARCH

func hostLayout(release string) *abi.Layout {
	l, err := abi.For(release, runtimeArch)
	if err != nil {
		panic(err)
	}
	return l
}

// pfOn is a PF that takes the layout as it is.
func pfOn(d Device, l *abi.Layout) *PF { return &PF{d: d, l: l} }
