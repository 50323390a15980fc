//go:build !linux

package nameserver

import "syscall"

// mortal has no meaning but on Linux; processes are ended by their starter.
func mortal() *syscall.SysProcAttr { return nil }
