// Package status is how a running daemon is asked and told: the local sockets
// behind `threatstopd --status` and `--sync-now`, what they answer ([Status]) as
// text, as JSON and as metrics, and the [History] of hits that goes into it.
//
// The package knows nothing of the daemon: that fills a Status and implements
// [Backend]. It has two sockets. One is for whoever may administer the host and
// takes every request; the other is for monitoring, and answers what the status
// is, no more. Either serves a bounded number of clients for a bounded time,
// whatever they send or leave unsent.
package status

// Where the sockets are. Their paths fit in OpenBSD's sockaddr_un with room to spare
// (sys/un.h: sun_path has 104 bytes).
const (
	SocketPath       = "/var/run/threatstopd.sock"        // every request: 0660 root:wheel
	StatusSocketPath = "/var/run/threatstopd-status.sock" // the status alone: 0660 root:STATUS_GROUP
)
