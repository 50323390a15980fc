package check

import (
	"net"
	"os/user"
	"strconv"

	"example.org/threatstopd/agent/internal/rules"
)

// Interfaces returns the interfaces of the machine and the groups that they are
// in.
func Interfaces() ([]rules.Interface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []rules.Interface
	for _, i := range list {
		x := rules.Interface{Name: i.Name, Loopback: i.Flags&net.FlagLoopback != 0, Up: i.Flags&net.FlagUp != 0}
		if x.Groups, err = groups(i.Name); err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

// UserID returns the number of a user.
func UserID(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}
