package install

import (
	"fmt"
	"strconv"
	"strings"
)

// Service accounts that the base system brings have ids below 200, those of packages from
// 500 to 999 (ports/infrastructure/db/user.list). Between them neither will ever want
// ours.
const (
	lowID  = 300
	highID = 499
)

// accounts are the users and groups of the host, as passwd(5) and group(5) have them.
type accounts struct {
	users, groups map[string]account
}

type account struct {
	id   int
	gid  int    // of a user
	line string // without the password
}

func readAccounts(d *disk) (*accounts, error) {
	a := &accounts{users: make(map[string]account), groups: make(map[string]account)}
	for _, from := range []struct {
		path   string
		to     map[string]account
		fields int
	}{{passwdPath, a.users, 7}, {groupPath, a.groups, 4}} {
		f, err := d.read(from.path)
		if err != nil {
			return nil, err
		}
		if f == nil {
			return nil, fmt.Errorf("%s: missing: this is not OpenBSD", from.path)
		}
		for line := range strings.Lines(string(f.Data)) {
			fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(fields) != from.fields {
				continue // a comment, or YP's +
			}
			id, err := strconv.Atoi(fields[2])
			gid := 0
			if err == nil && from.fields == 7 {
				gid, err = strconv.Atoi(fields[3])
			}
			if err != nil {
				continue
			}
			fields[1] = "*"
			from.to[fields[0]] = account{id, gid, strings.Join(fields, ":")}
		}
	}
	return a, nil
}

// free returns an id that is neither a user's nor a group's.
func (a *accounts) free() (int, error) {
	taken := make(map[int]bool)
	for _, u := range a.users {
		taken[u.id] = true
	}
	for _, g := range a.groups {
		taken[g.id] = true
	}
	for id := lowID; id <= highID; id++ {
		if !taken[id] {
			return id, nil
		}
	}
	return 0, fmt.Errorf("no id from %d to %d is free for the service user", lowID, highID)
}

const gecos = "ThreatSTOP agent"

// userLine is the passwd(5) entry that addUser makes.
func userLine(name string, id, gid int) string {
	return fmt.Sprintf("%s:*:%d:%d:%s:/var/empty:/sbin/nologin", name, id, gid, gecos)
}

func addGroup(name string, id int) Command {
	return Command{Args: []string{groupadd, "-g", strconv.Itoa(id), name}}
}

func addUser(name string, id int) Command {
	return Command{Args: []string{useradd, "-u", strconv.Itoa(id), "-g", name, "-c", gecos, "-d", "/var/empty", "-s", "/sbin/nologin", "-L", "daemon", name}}
}
