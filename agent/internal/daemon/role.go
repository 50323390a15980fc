package daemon

import (
	"time"

	"example.org/threatstopd/agent/internal/status"
)

// A role that dies is started again. The owner is needed when it dies so often, and the trouble then
// lasts until the deaths are this long ago.
const (
	deathsLong = 10 * time.Minute
	deathsMany = 3
)

// role is what is known of the process of a role.
type role struct {
	status.Process
	Deaths []time.Time // lately
}

// role returns what is known of a role.
func (d *Daemon) role(name string) *role {
	for _, r := range d.roles {
		if r.Name == name {
			return r
		}
	}
	r := &role{Process: status.Process{Name: name}}
	d.roles = append(d.roles, r)
	return r
}

// key is that of the trouble with the role.
func (r *role) key() string { return r.Name + " process" }

// recent forgets the deaths that are long ago, and returns how many there are.
func (r *role) recent() int {
	for len(r.Deaths) > 0 && time.Since(r.Deaths[0]) > deathsLong {
		r.Deaths = r.Deaths[1:]
	}
	return len(r.Deaths)
}

// lives returns what the supervisor of a role calls: when it died, and why, and when it works.
func (d *Daemon) lives(name string) (down func(reason string), up func()) {
	return func(reason string) {
			d.do(func() {
				r := d.role(name)
				r.Started, r.Restarts = time.Time{}, r.Restarts+1
				r.Deaths = append(r.Deaths, time.Now())
				r.Deaths = r.Deaths[max(0, r.recent()-deathsMany):]
				d.trouble.is(r.key(), r.key()+": "+reason, len(r.Deaths) >= deathsMany)
			})
		}, func() {
			d.do(func() {
				r := d.role(name)
				r.Started = time.Now()
				if r.recent() < deathsMany {
					d.trouble.over(r.key())
				}
			})
		}
}

// settle resolves the troubles of roles that have stopped dying.
func (d *Daemon) settle() {
	for _, r := range d.roles {
		if r.recent() == 0 {
			d.trouble.over(r.key())
		}
	}
}
