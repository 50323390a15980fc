package daemon

import "time"

// Troubles with the processes of roles.
const (
	fetchProcess  = "fetch process"
	reportProcess = "report process"
	statesProcess = "states process"
)

// A role that died is started again, and that is that. One that dies often is for its
// owner to see to, and its trouble is not over when it is only up again.
const (
	deathsLong = 10 * time.Minute
	deathsMany = 3
)

// down notes that a role is gone.
func (d *Daemon) down(key, text string) {
	d.mu.Lock()
	if d.deaths == nil {
		d.deaths = make(map[string][]time.Time)
	}
	recent := append(d.recent(key), time.Now())
	// More tell no more.
	d.deaths[key] = recent[max(0, len(recent)-deathsMany):]
	many := len(recent) >= deathsMany
	d.mu.Unlock()
	d.trouble.is(key, text, many)
}

// up notes that a role is at work.
func (d *Daemon) up(key string) {
	d.mu.Lock()
	many := len(d.recent(key)) >= deathsMany
	d.mu.Unlock()
	if !many {
		d.trouble.over(key)
	}
}

// settle ends the troubles of roles that died often, and no more: one that is not up
// would have failed to start again meanwhile.
func (d *Daemon) settle() {
	for _, key := range []string{fetchProcess, reportProcess, statesProcess} {
		d.mu.Lock()
		quiet := len(d.recent(key)) == 0
		d.mu.Unlock()
		if quiet {
			d.trouble.over(key)
		}
	}
}

// recent returns when a role died of late. The caller holds mu.
func (d *Daemon) recent(key string) []time.Time {
	all := d.deaths[key]
	for len(all) > 0 && time.Since(all[0]) > deathsLong {
		all = all[1:]
	}
	return all
}
