package privsep_test

import (
	"example.org/threatstopd/agent/internal/privsep"
	"example.org/threatstopd/agent/internal/privsep/privseptest"
)

// privseptest imports privsep, so that privsep's own tests cannot import it.
func init() { privsep.InProcess, privsep.PipeBuffer = privseptest.InProcess, privseptest.Buffer }
