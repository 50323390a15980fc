package cli

import (
	"context"

	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/status"
)

// showStatus prints the state of the running daemon. It reads no configuration and needs no
// privilege but that of connecting to one of the sockets. Its error distinguishes a daemon that
// needs its owner from none.
func showStatus(ctx context.Context, env Env, f *flags) error {
	var sockets []string
	for _, s := range []string{env.Socket, env.StatusSocket} {
		if s != "" {
			sockets = append(sockets, s)
		}
	}
	client, err := status.Dial(ctx, sockets...)
	if err != nil {
		return noAnswer{err}
	}
	if err := env.confine("--status", privsep.Confinement{}); err != nil {
		client.Close()
		return err
	}
	st, err := client.Status(ctx)
	if err != nil {
		return noAnswer{err}
	}
	if f.json {
		err = st.WriteJSON(env.Stdout)
	} else {
		err = st.WriteText(env.Stdout, env.Local, f.verbose > 0)
	}
	if err == nil && len(status.NeedsOwner(st)) > 0 {
		return errSaid
	}
	return err
}

// noAnswer is an error after which nothing is known about the daemon.
type noAnswer struct{ error }

func (e noAnswer) Unwrap() error { return e.error }
