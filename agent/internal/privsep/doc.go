// Package privsep cuts threatstopd into processes that trust each other as little as
// they can: main, and the roles that it starts by executing the same program again, each
// confined to what it needs. It knows how they are started, kept running, confined and
// connected; it does not know what they do.
//
// A role is told what it is by argv[0] ("threatstopd: NAME"), and everything else by the
// first message on descriptor 3, one end of a socketpair. It inherits no environment but
// TZ, and no descriptor but that one, /dev/null twice, a pipe for what the Go runtime
// says of a crash, and those that are meant for it. Messages are frames (see
// [example.org/threatstopd/agent/internal/frame]): the receiver says which kinds it takes and how
// long each may be, and whoever sends anything else is killed, and that is told.
//
// The table [Roles] says for each process as whom it runs, what it promises
// (pledge(2)), which paths it sees (unveil(2)), and what an attacker in it could still
// do. A [Confiner] applies it; the manual's table is tested against it.
package privsep
