package status

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	helpLine   = regexp.MustCompile(`^# HELP ([a-z_]+) (\S.*\.)$`)
	typeLine   = regexp.MustCompile(`^# TYPE ([a-z_]+) (gauge|counter)$`)
	sampleLine = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`^([a-z_]+)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)`)
	decimal    = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
)

// parseMetrics reads the text format strictly: each family once, with help, type and then
// its samples, no sample twice, names as they should be. It returns values by what stands
// in front of them.
func parseMetrics(t *testing.T, text string) map[string]float64 {
	t.Helper()
	values := make(map[string]float64)
	families := make(map[string]bool)
	family, kind, helped := "", "", ""
	for line := range strings.Lines(text) {
		line, ended := strings.CutSuffix(line, "\n")
		if !ended {
			t.Fatalf("the last line has no end: %q", line)
		}
		if m := helpLine.FindStringSubmatch(line); m != nil {
			helped = m[1]
			continue
		}
		if m := typeLine.FindStringSubmatch(line); m != nil {
			family, kind = m[1], m[2]
			if families[family] || helped != family || !strings.HasPrefix(family, "threatstopd_") {
				t.Fatalf("family twice, without help, or of others: %q", line)
			}
			if strings.HasSuffix(family, "_total") != (kind == "counter") {
				t.Errorf("%s is a %s", family, kind)
			}
			families[family] = true
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || m[1] != family {
			t.Fatalf("not a sample of %s: %q", family, line)
		}
		for labels := m[2]; labels != ""; {
			pair := labelPair.FindStringSubmatch(labels)
			if pair == nil {
				t.Fatalf("labels of %q", line)
			}
			labels = labels[len(pair[0]):]
			if pair[3] == "," && labels == "" {
				t.Fatalf("labels of %q", line)
			}
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil || !decimal.MatchString(m[3]) || kind == "counter" && v < 0 && !strings.Contains(line, "-") {
			t.Fatalf("value of %q: %v", line, err)
		}
		key := line[:len(line)-len(m[3])-1]
		if _, ok := values[key]; ok {
			t.Fatalf("twice: %q", line)
		}
		values[key] = v
	}
	return values
}

func TestMetrics(t *testing.T) {
	for _, x := range states {
		t.Run(x.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := x.status().WriteMetrics(&b); err != nil {
				t.Fatal(err)
			}
			values := parseMetrics(t, b.String())
			if got := int(values["threatstopd_needs_owner"]); got != len(x.needs) {
				t.Errorf("needs_owner %d, want %d", got, len(x.needs))
			}
			if _, ok := values["threatstopd_enforced"]; ok == (x.status().NotKnown+x.status().Unsure != "") {
				t.Error("enforced is there, and it is not known")
			}
			for _, r := range reasons {
				if _, ok := values[`threatstopd_lost_total{reason="`+r.name+`"}`]; !ok {
					t.Errorf("no sample for %s", r.name)
				}
			}
			if x.name == "healthy" || x.name == "everything" {
				golden(t, x.name+".metrics", b.String())
			}
		})
	}
	s := healthy()
	s.Lists[0].Name = "a\\b\"c\nd\xff"
	s.Lists = append(s.Lists, s.Lists[0])
	s.Hits.Lists = nil
	var b bytes.Buffer
	if err := s.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	values := parseMetrics(t, b.String())
	for key, want := range map[string]float64{
		`threatstopd_list_entries{kind="block",list="a\\b\"c\nd?"}`:                             26421,
		`threatstopd_list_fetched_timestamp_seconds{kind="allow",list="mine.threatstop.local"}`: float64(at.Add(-19 * time.Minute).Unix()),
		`threatstopd_build_info{version="v1.2.0 (3f12c8c2b1aa, go1.25.1 openbsd/amd64)"}`:       1,
		`threatstopd_poll_duration_seconds`:                                                     0.412,
		`threatstopd_lost_total{reason="spool_full"}`:                                           0,
		`threatstopd_table_kernel_entries{kind="block",table="ThreatSTOP-Block"}`:               26424,
	} {
		if got, ok := values[key]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", key, got, ok, want)
		}
	}
	if strings.Contains(b.String(), "list_hits_total{") {
		t.Error("hits of no list")
	}
}

// The dashboard and the alerts of install use metrics and reasons that exist.
func TestMetricsInUse(t *testing.T) {
	s := find("everything").status()
	s.Reported, s.NotKnown = at, ""
	var b bytes.Buffer
	if err := s.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"grafana.json", "alerts.yml"} {
		text, err := os.ReadFile(filepath.Join("../../../install", file))
		if os.IsNotExist(err) {
			t.Skip("the source is not on this host")
		}
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`threatstopd_[a-z_]+`).FindAllString(string(text), -1)
		if len(names) < 6 || strings.HasSuffix(file, ".json") && !json.Valid(text) {
			t.Errorf("%s: %d metrics, or no JSON", file, len(names))
		}
		for _, name := range names {
			if !strings.Contains(b.String(), "# TYPE "+name+" ") {
				t.Errorf("%s: no metric %s", file, name)
			}
		}
		for _, m := range regexp.MustCompile(`reason=~"([^"]*)"`).FindAllStringSubmatch(string(text), -1) {
			var want []string
			for _, r := range reasons {
				if r.hits {
					want = append(want, r.name)
				}
			}
			if got := strings.Join(want, "|"); m[1] != got {
				t.Errorf("%s: reasons %s, want %s", file, m[1], got)
			}
		}
	}
}
