// Package pfioctl works with the tables and states of OpenBSD's packet filter,
// and reads its rules, status and limits, by ioctl(2) on /dev/pf. It runs no
// pfctl(8) and needs no cgo.
//
// A program opens the device and makes its requests:
//
//	pf, err := pfioctl.Open()
//	…
//	delta, err := pf.Set(pfioctl.Table{Name: "bad"}, len(prefixes), entries)
//
// The releases 6.9 to 8.0 are known, on amd64, arm64, 386, arm, ppc64 and
// riscv64; what a later one gets is described at [New]. Everything but opening the
// device is the same on every system, and package pfsim has a [Device] that answers
// as the kernel does, for tests. The kernel's structs and numbers are in
// internal/abi.
//
// # Changing a table
//
// [PF.SetAddrs] makes a table equal to an array, in one step for packets. It is
// the call to build on: it is the same in all releases, keeps the counters of
// entries that stay, is allowed under the promise "pf" of pledge(2), and at the limit
// of entries fails where [PF.Add] would never return. [PF.Compare] returns what it would
// change. The array lies outside the heap of the garbage collector.
//
// [PF.List] and [PF.AddrStats] read a table of any size in the memory that the kernel
// wrote; [PF.Get] makes a slice of it.
//
// # What the kernel does not say
//
// pf's requests have traps, most of which look like success. This package
// steps around them:
//
//   - An array that is too small is success with nothing written; lists are
//     asked for again until they fit.
//   - One bad entry refuses a whole request, with EINVAL; entries are checked
//     before, and the error names the one.
//   - Since 7.1 an add at the limit of table entries sleeps without end and
//     blocks pf's every other request; Add is refused before with [ErrLimit].
//   - A table and its namesake in an anchor, deleted in one request, make the kernel
//     touch memory that it has freed; they go in two.
//   - A request to kill a state without its id kills all; it is refused.
//   - An add answers in reverse order with stale bytes, its number of new tables
//     does not count all of them, and the flags of a listed table may not be
//     sent back.
//
// # Errors
//
// Failed requests are an [*Error] around the kernel's syscall.Errno, with the
// numbers that matter in its message; [Error.Advice] says what to do about it.
//
// # Privilege
//
// Opening /dev/pf takes root, what follows does not: pf looks at the descriptor
// alone. A process that pledges "pf" calls [PF.Pledged] before, so that a
// request the promise does not allow becomes an error instead of the process's
// end. At securelevel 2 tables can be neither made nor removed, their addresses
// can still be changed.
package pfioctl
