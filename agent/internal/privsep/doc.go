// Package privsep divides threatstopd into processes with as few rights as possible: main, and the
// roles that main starts by executing the same program again. The package starts, confines,
// supervises and connects them; it does not know what they do.
//
// A role finds its name in argv[0] ("threatstopd: NAME") and everything else in the first message on
// descriptor 3, one end of a socketpair. It inherits no environment but TZ, and no descriptor but that one,
// /dev/null twice, a pipe that takes the Go runtime's report of a crash, and those that are passed to it.
//
// A message is the length of its payload (4 bytes, most significant first), a kind (1 byte) and the
// payload: one JSON value, or binary records. The receiver lists the kinds that it takes and the
// longest payload of each; a role that sends anything else is killed, and the reason is logged.
//
// The table [Roles] lists for each process its user, promises (pledge(2)), paths (unveil(2)), and what
// an attacker in it could still do. A [Confiner] applies it; the manual's table is tested against it.
package privsep
