// Package status is what is known about a running daemon ([Status]), how it is shown (text,
// JSON, metrics, page), and the HTTP service on local sockets behind `threatstopd --status` and
// `--sync-now`, with both its ends.
//
// The package does not know the daemon. One process fills in a Status, the process that
// serves it keeps the last one in a [Board], adds what it knows itself, and runs [Serve]:
//
//	GET /            a page for browsers
//	GET /status      the status as JSON
//	GET /status.txt  as text, with ?v everything
//	GET /metrics     as Prometheus reads it
//	POST /sync       fetches the policy and enforces it, with ?force=1 also one that shrank
//	                 too much; streams JSON lines, see [Event]
//
// The socket for root and wheel takes every request, the one for monitoring all but /sync.
// Over TCP, METRICS serves /metrics alone, and STATUS_PAGE what the socket for monitoring serves.
// Each serves a bounded number of clients for a bounded time.
package status

// Where the sockets are. Their paths fit in OpenBSD's sockaddr_un (sys/un.h: sun_path has 104 bytes).
const (
	SocketPath       = "/var/run/threatstopd.sock"        // every request: 0660 root:wheel
	StatusSocketPath = "/var/run/threatstopd-status.sock" // no /sync: 0660 root:STATUS_GROUP
)
