package status

import (
	"os"
	"testing"
	"time"
)

func TestPageX(t *testing.T) {
	for _, x := range states {
		b, err := x.status().page(time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile("/tmp/page3-"+x.name+".html", b, 0o644)
	}
}
