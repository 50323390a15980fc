package daemon

import "example.org/threatstopd/agent/internal/status"

// Status returns what the loop of a running daemon knows.
func (d *Daemon) Status() status.Status {
	s := make(chan status.Status, 1)
	d.do(func() { s <- d.status() })
	return <-s
}
