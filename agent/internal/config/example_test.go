package config

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write threatstop.conf.example from example.conf")

const examplePath = "../../../threatstop.conf.example"

func TestExampleFile(t *testing.T) {
	if *update {
		if err := os.WriteFile(examplePath, []byte(Example()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(examplePath)
	if os.IsNotExist(err) {
		t.Skip("the source is not on this host")
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Example(), string(file)); diff != "" {
		t.Fatalf("threatstop.conf.example is no copy of example.conf: go test ./agent/internal/config -update (-want +got):\n%s", diff)
	}
	for line := range strings.Lines(string(file)) {
		if len(line) > 82 && !strings.Contains(line, "=") || strings.Trim(line, "\n") != strings.TrimRight(line, " \t\n") {
			t.Errorf("too wide, or with blanks at its end: %q", line)
		}
	}
	for _, r := range string(file) {
		if r > '~' || r < ' ' && r != '\n' {
			t.Errorf("%U is not for every editor", r)
		}
	}

	// As it comes: the values to replace are named, and every other is the default.
	c, warnings, err := Parse(examplePath, bytes.NewReader(file))
	if err != nil || len(warnings) != 2 || warnings[0].Key != "device_id" || warnings[1].Key != "BLOCK_LISTS" {
		t.Fatalf("%v, %v", warnings, err)
	}
	want := base()
	want.DeviceID = "tdid_abcd1234"
	want.DNSServers = []string{"ts-dns.threatstop.com", "dns.threatstop.com"}
	want.BlockLists = []string{"basic.threatstop.local"}
	want.URL = mustURL("https://logs.threatstop.com/")
	if diff := cmp.Diff(want, c, exact); diff != "" {
		t.Errorf("as it comes (-want +got):\n%s", diff)
	}

	// With every line in force: the same, since what is behind a # is the default.
	every := regexp.MustCompile(`(?m)^#([A-Za-z_0-9]+=)`).ReplaceAll(file, []byte("$1"))
	all, warnings, err := Parse("every line", bytes.NewReader(every))
	if err != nil || len(warnings) != 2 {
		t.Fatalf("every line in force: %v, %v", warnings, err)
	}
	if diff := cmp.Diff(c, all, exact); diff != "" {
		t.Errorf("every line in force (-want +got):\n%s", diff)
	}

	// Every key once, with a comment that ends with what it may hold, and with its default.
	comments := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)((?:^# .*\n)+)#?(\w+)=`).FindAllStringSubmatch(string(file), -1) {
		comments[m[2]] = strings.Join(strings.Fields(strings.ReplaceAll(m[1], "#", "")), " ")
	}
	found := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^#?([A-Za-z_0-9]+)=(.*)$`).FindAllStringSubmatch(string(file), -1) {
		found[m[1]] = append(found[m[1]], strings.Trim(m[2], `"`))
	}
	for _, k := range Keys() {
		value := k.Default + k.Example
		if got := found[k.Name]; len(got) != 1 || got[0] != value {
			t.Errorf("%s stands there with %q, want once, with %q", k.Name, got, value)
		}
		delete(found, k.Name)
		doc, allowed, _ := strings.Cut(comments[k.Name], "Allowed: ")
		if want := strings.Join(strings.Fields(k.Allowed), " ") + "."; doc == "" || allowed != want {
			t.Errorf("%s: comment %q, want it to end with %q", k.Name, comments[k.Name], want)
		}
	}
	if len(found) > 0 {
		t.Errorf("no keys: %v", found)
	}
}

func TestKeys(t *testing.T) {
	seen := make(map[string]bool)
	keys := Keys()
	for i, k := range keys {
		if k.Name == "" || k.Allowed == "" || seen[k.Name] {
			t.Errorf("incomplete, or twice: %+v", k)
		}
		seen[k.Name] = true
		if (k.Need != "") != (k.Example != "") || k.Need != "" && k.Default != "" {
			t.Errorf("%s: a required key has an example and no default: %+v", k.Name, k)
		}
		if f := find(k.Name); f == nil || f.Name != k.Name {
			t.Errorf("%s is not found", k.Name)
		}
		// Close names must differ enough, or one would be a slip of the other.
		for _, other := range keys[:i] {
			if strings.EqualFold(k.Name, other.Name) {
				t.Errorf("%s and %s differ in nothing but capitals", k.Name, other.Name)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"DNS_SERVER", "DNS_SERVERS"},
		{"dns_servers", "DNS_SERVERS"},
		{"DNSSERVERS", "DNS_SERVERS"},
		{"BLCOK_FILE", "BLOCK_FILE"},
		{"ALOW_TABLE", "ALLOW_TABLE"},
		{"pf_log", "pflog"},
		{"URLS", "url"},
		{"ur", "url"},
		{"ul", "url"},
		{"u", ""},
		{"version", ""},
		{"PATH", ""},
		{"LANG", ""},
		{"HOME", ""},
		{"MY_OWN", ""},
		{strings.Repeat("X", 1000), ""},
	} {
		if got := nearest(tt.name); got != tt.want {
			t.Errorf("nearest(%q) = %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "axc", 1}, {"abc", "ac", 1},
		{"kitten", "mitten", 1}, {"sitting", "kitten", 3}, {"abcdef", "badcfe", 4}, {"ab", "ba", 2},
	} {
		for edits := range 5 {
			if got := within(tt.a, tt.b, edits); got != (tt.want <= edits) {
				t.Errorf("within(%q, %q, %d) = %t", tt.a, tt.b, edits, got)
			}
			if got := within(tt.b, tt.a, edits); got != (tt.want <= edits) {
				t.Errorf("within(%q, %q, %d) = %t", tt.b, tt.a, edits, got)
			}
		}
	}
}
