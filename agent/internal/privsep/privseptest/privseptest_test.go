package privseptest

import (
	"strings"
	"testing"

	"example.org/threatstopd/agent/internal/privsep"
)

func TestRecorder(t *testing.T) {
	var r Recorder
	var c privsep.Confiner = &r
	asked := 0
	for range 2 {
		if err := c.Confine("fetch", privsep.Confinement{AsUser: func() { asked++ }}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Confine("report", privsep.Confinement{}); err == nil {
		t.Error("paths that are missing are no error")
	}
	steps := r.Steps("fetch")
	if len(steps) != 2 || asked != 2 || steps[0][len(steps[0])-1] != "pledge stdio inet" || len(r.Steps("report")) != 0 {
		t.Errorf("asked %d times, steps %q", asked, steps)
	}
}

func TestManual(t *testing.T) {
	text := Manual()
	for line := range strings.Lines(text) {
		if len(line) > 80 || strings.TrimSpace(line) == "" || strings.HasSuffix(line, " \n") {
			t.Errorf("line %q", line)
		}
	}
	for _, r := range privsep.Roles {
		if !strings.Contains(text, title(r.Name)) {
			t.Errorf("%s is missing", r.Name)
		}
	}
}
