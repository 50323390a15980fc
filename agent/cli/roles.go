package cli

import (
	"example.org/threatstopd/agent/fetchrole"
	"example.org/threatstopd/agent/privsep"
	"example.org/threatstopd/agent/reportrole"
	"example.org/threatstopd/agent/statesrole"
)

// RoleBodies are the lives of the other processes, by the roles' names: for privsep.Serve,
// when this process is one, and for privsep.InProcess.
func RoleBodies(env Env) map[string]privsep.Body {
	return map[string]privsep.Body{
		"fetch": fetchrole.Body(env.Confine, env.Lookup),
		"report": reportrole.Body(reportrole.Env{
			OpenPflog:   env.OpenPflog,
			FlushPflogd: env.FlushPflogd,
			Confine:     env.Confine,
			Location:    env.Local,
			Now:         env.Now,
		}),
		statesrole.Name: statesrole.Body(statesrole.Env{OpenPF: env.OpenPF, Confine: env.Confine}),
	}
}
