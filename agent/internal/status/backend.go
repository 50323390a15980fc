package status

import "context"

// Backend is what the daemon has behind its sockets. Its methods are called from several
// goroutines at once.
type Backend interface {
	// Status returns what is known now. It waits neither for the network nor
	// for the disk.
	Status() Status
	// Sync fetches the policy and enforces it, and returns an exit code as
	// threatstopd --sync-now has it. force is the owner's word for a table that
	// shrank too much. say is told how it goes, a line at a time, warn for what
	// belongs on standard error; it never waits for long. Sync is called once at a time,
	// and goes on when the client that asked has gone; ctx ends when the daemon does.
	Sync(ctx context.Context, force bool, say func(line string, warn bool)) (exit int)
	// Flush delivers the hits that wait, and returns nil when they are
	// delivered.
	Flush(ctx context.Context) error
}
