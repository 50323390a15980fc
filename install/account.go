package install

import (
	"fmt"
	"strconv"
	"strings"
)

// Service accounts of the base system have ids below 200, those of packages from 500 to 999
// (ports/infrastructure/db/user.list). Neither will ever need one between them.
const lowID, highID = 300, 499

// accounts are the users and groups of the host, as passwd(5) and group(5) have them.
type accounts struct {
	users, groups map[string]account
}

type account struct {
	id, gid int    // gid of a user
	line    string // without the password
}

func (h *host) readAccounts() (a accounts, err error) {
	if a.users, err = h.readIDs(passwdPath, 7); err == nil {
		a.groups, err = h.readIDs(groupPath, 4)
	}
	return a, err
}

// readIDs reads passwd(5) or group(5), whose lines have so many fields. Others, such as comments and YP's +, are
// left out.
func (h *host) readIDs(path string, fields int) (map[string]account, error) {
	f, err := h.read(path)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("%s: missing: this is not OpenBSD", path)
	}
	all := make(map[string]account)
	for line := range strings.Lines(f.text()) {
		words := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(words) != fields {
			continue
		}
		id, err := strconv.Atoi(words[2])
		gid, gidErr := strconv.Atoi(words[3])
		if err == nil && (fields == 4 || gidErr == nil) {
			words[1] = "*"
			all[words[0]] = account{id, gid, strings.Join(words, ":")}
		}
	}
	return all, nil
}

// free returns want if that is not 0 and no user's id, else an id that is neither a user's nor a group's.
func (a accounts) free(want int) (int, error) {
	taken := map[int]bool{0: true}
	for _, u := range a.users {
		taken[u.id] = true
	}
	if !taken[want] {
		return want, nil
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

// userLine is the passwd(5) entry of a user that addUser makes, groupLine the group(5) entry of its group.
func userLine(name string, id, gid int) string {
	return fmt.Sprintf("%s:*:%d:%d:%s:/var/empty:/sbin/nologin", name, id, gid, gecos)
}

func groupLine(name string, id int) string { return fmt.Sprintf("%s:*:%d:", name, id) }

func addUser(name string, id int) []string {
	return []string{useradd, "-u", strconv.Itoa(id), "-g", name, "-c", gecos,
		"-d", "/var/empty", "-s", "/sbin/nologin", "-L", "daemon", name}
}
