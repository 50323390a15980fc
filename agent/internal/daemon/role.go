package daemon

import (
	"strings"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

// Names of the processes of roles, as troubles have them.
const (
	fetchProcess  = "fetch process"
	reportProcess = "report process"
	statesProcess = "states process"
)

// A role that dies is started again. The owner is needed when it dies so often, and the trouble then
// lasts until the deaths are this long ago.
const (
	deathsLong = 10 * time.Minute
	deathsMany = 3
)

// down notes that a role died, and why.
func (d *Daemon) down(process, reason string) {
	recent := append(d.recent(process), time.Now())
	d.deaths[process] = recent[max(0, len(recent)-deathsMany):]
	d.trouble.is(process, process+": "+reason, len(recent) >= deathsMany)
	p := d.process(process)
	p.Started, p.Restarts = time.Time{}, p.Restarts+1
}

// process returns what the status has about the process of a role.
func (d *Daemon) process(process string) *status.Process {
	name := strings.TrimSuffix(process, " process")
	for i := range d.processes {
		if d.processes[i].Name == name {
			return &d.processes[i]
		}
	}
	d.processes = append(d.processes, status.Process{Name: name})
	return &d.processes[len(d.processes)-1]
}

// up notes that a role works.
func (d *Daemon) up(process string) {
	d.process(process).Started = time.Now()
	if len(d.recent(process)) < deathsMany {
		d.trouble.over(process)
	}
}

// settle resolves the troubles of roles that have stopped dying.
func (d *Daemon) settle() {
	for process := range d.deaths {
		if len(d.recent(process)) == 0 {
			d.trouble.over(process)
		}
	}
}

// recent returns when a role died lately.
func (d *Daemon) recent(process string) []time.Time {
	all := d.deaths[process]
	for len(all) > 0 && time.Since(all[0]) > deathsLong {
		all = all[1:]
	}
	return all
}
