package privsep

import "golang.org/x/sys/unix"

func unveil(path, permissions string) error { return unix.Unveil(path, permissions) }

func unveilNoMore() error { return unix.UnveilBlock() }

func pledge(promises string) error { return unix.PledgePromises(promises) }

// become gives up root for another user, for good.
func become(uid, gid int) error {
	if err := unix.Setgroups([]int{gid}); err != nil {
		return err
	}
	if err := unix.Setresgid(gid, gid, gid); err != nil {
		return err
	}
	return unix.Setresuid(uid, uid, uid)
}

// noProcesses forbids further processes. Threads do not count.
func noProcesses() error { return limit(unix.RLIMIT_NPROC, 0) }
