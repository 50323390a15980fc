//go:build unix

package pfioctl

import "golang.org/x/sys/unix"

// mapMemory returns n zeroed bytes that the garbage collector knows nothing of.
func mapMemory(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}

func unmapMemory(b []byte) error {
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}
