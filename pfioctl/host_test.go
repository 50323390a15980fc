package pfioctl

import "runtime"

const runtimeArch = runtime.GOARCH
