package cli

import (
	"example.org/threatstopd/agent/internal/fetch"
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/states"
)

// RoleBodies are the lives of the other processes, by the roles' names: for privsep.Serve,
// when this process is one, and for privsep.InProcess.
func RoleBodies(env Env) map[string]privsep.Body {
	return map[string]privsep.Body{
		"fetch": fetch.Body(env.Confine, env.Lookup),
		"report": report.Body(report.Env{
			OpenPflog:   env.OpenPflog,
			FlushPflogd: env.FlushPflogd,
			Confine:     env.Confine,
			Location:    env.Local,
			Now:         env.Now,
		}),
		states.Name: states.Body(states.Env{OpenPF: env.OpenPF, Confine: env.Confine}),
	}
}
