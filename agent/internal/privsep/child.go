package privsep

import (
	"net"
	"os"
)

// Starter starts roles: as processes of their own ([Exec]), or inside this one
// ([InProcess]).
type Starter interface {
	// Start starts a role with files as its descriptors from 4 on. The files are
	// Start's, which closes them when they are no longer needed here, also when it
	// fails.
	Start(role string, files []*os.File) (Child, error)
}

// Child is a role that runs.
type Child interface {
	// Conn leads to the role. Whoever started it closes it.
	Conn() net.Conn
	// Wait returns when the role is gone, and says why in one line: nil for an
	// orderly end (exit status 0), else `SIGABRT, pledge violation?`, `exit status
	// 2: panic: …`, `killed`. It may be called more than once.
	Wait() error
	// Kill ends the role at once. It may be called at any time, also afterwards.
	Kill()
}

// Body is a role's whole life: from its connection to main, and the descriptors that are
// its own, to its end. The error is why it could not go on; main is told it.
type Body func(conn net.Conn, files []*os.File) error
