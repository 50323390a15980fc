package status

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// render returns the page, and its text without tags: what a reader sees.
func render(t *testing.T, s *Status) (page, text string) {
	t.Helper()
	var b bytes.Buffer
	if err := s.WritePage(&b, time.UTC); err != nil {
		t.Fatal(err)
	}
	// It is written so that a strict parser of XML reads it.
	d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	var all strings.Builder
	for depth := 0; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && depth == 0 {
			return b.String(), strings.Join(strings.Fields(all.String()), " ")
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			depth++
			switch x.Name.Local {
			case "script", "iframe", "object", "img", "link", "form", "base":
				t.Errorf("an element %s", x.Name.Local)
			}
			for _, a := range x.Attr {
				name := strings.ToLower(a.Name.Local)
				if strings.HasPrefix(name, "on") || name == "src" || name == "style" || name == "href" && !strings.HasPrefix(a.Value, "/status") {
					t.Errorf("an attribute %s=%q", name, a.Value)
				}
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			all.Write(x)
			all.WriteByte(' ')
		}
	}
}

// The five states in which the page is looked at, and what it shows in each.
var pages = []struct {
	name, state string
	change      func(*Status)
	shows       []string
}{
	{"good", "healthy", nil, []string{
		"Enforced: 26424 entries in <ThreatSTOP-Block>, used by 2 rules", "next in 41m (2026-03-04 13:00)",
		"block basic.threatstop.local", "26421", "192.0.2.53:53", "A list is stale after 3h.",
		"excepted 198.18.0.1 (own address of em0): 1 entry inside it", "pf has 26430 of 200000 table entries",
		"33120 of 120345 packets on pflog0", "In the last hour: 312 hits", "198.51.100.7 120", "22/tcp 200", "198.51.100.7 1200+",
		"2026-03-04 12:00: 665 hits", "2026-03-04: 1373 hits", "Mar 3 01:00",
		"To logs.threatstop.com", "33000 lines delivered; waiting: 12 in memory", "Troubles none", "report 3d 1",
	}},
	{"not_enforced", "not_enforced", nil, []string{
		"NOT ENFORCED no loaded rule refers to table <ThreatSTOP-Block>", "block drop log quick from <ThreatSTOP-Block>", "pfctl -f /etc/pf.conf",
	}},
	{"needs_you", "needs_you", func(s *Status) {
		stale, held := find("stale").status(), find("held_back").status()
		s.Lists[0], s.Tables[0].Held = stale.Lists[0], held.Tables[0].Held
		s.Hits.Drops = []Drop{{DropSpoolFull, 4000, at.Add(-2 * time.Hour)}}
		s.Uploads.Spool, s.Uploads.DiskUsed = Volume{8, 7312, 30 << 20}, 40<<20
		s.PF.Limit = 60000
	}, []string{
		"Needs you block list basic.threatstop.local: stale, last fetched 5h ago", "8 batches refused by the log server (403)",
		"Enforced: 26424 entries", "HELD BACK: 1200 entries instead of 26424", "5h: stale", "lost 4000: the oldest of a full spool",
		"Troubles since 2026-03-04 11:19: OUT_DIR is not a key",
	}},
	{"starting", "empty", func(s *Status) {
		*s = Status{Version: "v1.2.0", Config: "/usr/local/etc/threatstop.conf", Started: at.Add(-2 * time.Second), Now: at}
		s.Enforced, s.NotEnforced, s.Unsure, s.NotKnown = false, "", "", "main has not reported yet"
		s.Poll.Running = true
	}, []string{"Starting main has not reported yet No poll has ended yet, one is under way", "Lists", "none yet"}},
	{"no_hits_yet", "just_started", nil, []string{
		"Enforced: 26424 entries in <ThreatSTOP-Block>, used by 1 rule", "No poll has ended yet", "not fetched yet", "No hits yet.", "nothing yet",
	}},
}

// find returns one of states.
func find(name string) *state {
	for i := range states {
		if states[i].name == name {
			return &states[i]
		}
	}
	panic("no state " + name)
}

// pageDir is where TestPage leaves the pages for a browser.
var pageDir = os.Getenv("PAGES")

func TestPage(t *testing.T) {
	for _, x := range pages {
		t.Run(x.name, func(t *testing.T) {
			s := find(x.state).status()
			s.Processes = []Process{{"main", s.Started, 0}, {"fetch", time.Time{}, 3}, {"report", s.Started, 1}}
			if x.change != nil {
				x.change(s)
			}
			page, text := render(t, s)
			for _, want := range x.shows {
				if !strings.Contains(text, want) {
					t.Errorf("does not show %q", want)
				}
			}
			if t.Failed() {
				t.Log(text)
			}
			if pageDir != "" {
				if err := os.WriteFile(filepath.Join(pageDir, x.name+".html"), []byte(page), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	for _, x := range states {
		t.Run(x.name, func(t *testing.T) {
			_, text := render(t, x.status())
			for _, need := range x.needs {
				for _, prefix := range []string{"not enforced: ", "not known: "} {
					need = strings.TrimPrefix(need, prefix)
				}
				flat := func(s string) string { return strings.Join(strings.Fields(strings.ReplaceAll(s, "`", " ")), " ") }
				if want := flat(ascii(need)); !strings.Contains(strings.ReplaceAll(text, " :", ":"), want) &&
					!strings.Contains(strings.ReplaceAll(text, " ", ""), strings.ReplaceAll(want, " ", "")) {
					t.Errorf("does not show the need %q in %s", want, text)
				}
			}
		})
	}
}

// What comes from strangers is text on the page, never markup.
func TestPageEscapes(t *testing.T) {
	const hostile = `</style></title><script>alert(1)</script><img src=x onerror=alert(1)>"'` + "`&amp;\x1b[2J\xff"
	s := find("everything").status()
	s.Version, s.Config, s.NotEnforced, s.PF.Notice, s.Poll.Error = hostile, hostile, hostile, hostile, hostile
	s.Lists[0].Name, s.Lists[0].Server, s.Lists[0].Error = hostile, hostile, hostile
	s.Tables[0].Name, s.Tables[0].Error, s.Tables[0].File = hostile, hostile, hostile
	s.Hits.Interface, s.Hits.Error, s.Hits.CatchUp = hostile, hostile, hostile
	s.Hits.Hour.Lists[0].Key, s.Hits.Lists[0].List, s.Hits.Drops[0].Reason = hostile, hostile, hostile
	s.Uploads.Server, s.Uploads.Error, s.Uploads.SpoolDir, s.Troubles[0].Text = hostile, hostile, hostile, hostile
	page, text := render(t, s) // fails for an element that it should not have
	if strings.Contains(page, "<img") || !strings.Contains(text, `</style></title><script>alert(1)</script>`) {
		t.Error(text)
	}
}

func TestPageRequests(t *testing.T) {
	r := start(t, patient)
	ask := func(addr, method, path, host string) (code, head, body string) {
		t.Helper()
		got := exchange(t, addr, method+" "+path+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		head, body, _ = strings.Cut(got, "\r\n\r\n")
		return strings.TrimPrefix(head, "HTTP/1.1 ")[:3], head, body
	}
	for _, addr := range []string{r.full, r.readOnly, r.page} {
		code, head, body := ask(addr, "GET", "/", "127.0.0.1:9111")
		_, style, _ := strings.Cut(body, "<style>")
		style, _, _ = strings.Cut(style, "</style>")
		hash := sha256.Sum256([]byte(style))
		for _, want := range []string{
			"Content-Type: text/html; charset=utf-8", "Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer",
			"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-" +
				base64.StdEncoding.EncodeToString(hash[:]) + "'",
		} {
			if code != "200" || style == "" || !strings.Contains(head+"\r\n", want+"\r\n") {
				t.Errorf("GET / at %s: no %q:\n%s", addr, want, head)
			}
		}
		if code, _, body := ask(addr, "HEAD", "/", "127.0.0.1:9111"); code != "200" || body != "" {
			t.Errorf("HEAD / at %s: %s, %q", addr, code, body)
		}
	}
	if code, _, _ := ask(r.metrics, "GET", "/", "127.0.0.1"); code != "404" {
		t.Errorf("GET / where the metrics are: %s", code)
	}
	for host, want := range map[string]string{
		"127.0.0.1": "200", "127.0.0.1:9111": "200", "[::1]:9111": "200", "[::1]": "200", "localhost": "200", "LocalHost:80": "200", "192.0.2.1:1": "200",
		"": "403", "evil.example": "403", "evil.example:9111": "403", "localhost.evil.example": "403", "127.0.0.1.evil.example": "403", "fw": "403",
	} {
		for _, path := range []string{"/", "/status", "/status.txt"} {
			if code, _, body := ask(r.page, "GET", path, host); code != want {
				t.Errorf("GET %s with Host %q: %s, want %s: %s", path, host, code, want, body)
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"} {
		for _, path := range []string{"/", "/status", "/sync"} {
			if code, _, _ := ask(r.page, method, path, "127.0.0.1"); code[0] != '4' {
				t.Errorf("%s %s: %s", method, path, code)
			}
		}
	}
	if code, _, _ := ask(r.page, "POST", "/sync", "127.0.0.1"); code != "404" || r.synced.Load() != 0 {
		t.Errorf("a sync over TCP: %s", code)
	}
}
