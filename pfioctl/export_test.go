package pfioctl

// For the tests that need pfsim, which imports this package.
var (
	With       = pfOn
	DecodeRule = decodeRule
	HostLayout = hostLayout

	ErrChanging = errChanging
)
