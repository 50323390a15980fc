//go:build !unix

package pfioctl

// mapMemory returns n zeroed bytes, of the heap where there is no mmap.
func mapMemory(n int) ([]byte, error) { return make([]byte, n), nil }

func unmapMemory([]byte) error { return nil }
