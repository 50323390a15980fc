package config

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write threatstop.conf.example from the table of keys")

const examplePath = "../../threatstop.conf.example"

func TestExampleFile(t *testing.T) {
	if *update {
		if err := os.WriteFile(examplePath, []byte(Example()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Example(), string(file)); diff != "" {
		t.Errorf("threatstop.conf.example is not what the keys say: go test ./agent/config -update (-want +got):\n%s", diff)
	}
}
