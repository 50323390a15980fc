package status

import (
	"github.com/google/go-cmp/cmp"
	"net/netip"
	"time"
)

// at is when the statuses of the tests are asked for, a time of day in UTC.
var at = time.Date(2026, 3, 4, 12, 19, 30, 0, time.UTC)

// healthy is the status of a daemon that has run for days without troubles.
func healthy() *Status {
	counts := make([]int64, HistoryHours)
	for i := range counts {
		counts[i] = int64((i*i*37)%300) * int64(i%7)
	}
	days := make([]int64, HistoryDays)
	for i := range days {
		days[i] = int64((i*i*53)%4000 + 200*(i%5))
	}
	return &Status{
		Format: Format, Version: "v1.2.0 (3f12c8c2b1aa, go1.25.1 openbsd/amd64)", Config: "/usr/local/etc/threatstop.conf",
		Started: at.Add(-76 * time.Hour), Now: at, Enforced: true,
		Poll: Poll{Last: at.Add(-19 * time.Minute), Took: InSeconds(412 * time.Millisecond), LastGood: at.Add(-19 * time.Minute),
			Next: at.Add(41 * time.Minute), Interval: InSeconds(time.Hour), StaleAfter: InSeconds(3 * time.Hour)},
		Lists: []List{
			{Kind: "block", Name: "basic.threatstop.local", Server: "192.0.2.53:53", Layout: "PTR+APL", Parts: 12, Entries: 26421,
				Fetched: at.Add(-19 * time.Minute), Tried: at.Add(-19 * time.Minute), Enforced: 26420},
			{Kind: "allow", Name: "mine.threatstop.local", Server: "192.0.2.53:53", Layout: "APL", Parts: 1, Entries: 3,
				Fetched: at.Add(-19 * time.Minute), Tried: at.Add(-19 * time.Minute), Enforced: 3},
		},
		Tables: []Table{
			{Kind: "block", Name: "ThreatSTOP-Block", Loaded: true, Policy: 26424, Not: 3, Kernel: 26424, Rules: 2,
				Updated: at.Add(-139 * time.Minute), Change: Change{12, 3, 0}, Checked: at.Add(-4 * time.Minute),
				Excepted: []Excepted{{netip.MustParsePrefix("198.18.0.1/32"), "own address of em0", 1, 0, []string{"basic.threatstop.local"}}}, ExceptedCount: 1,
				File: "/var/db/ThreatSTOP-Block.pftable", FileWritten: at.Add(-139 * time.Minute), FileEntries: 26424},
			{Kind: "allow", Name: "ThreatSTOP-Allow", Loaded: true, Policy: 3, Kernel: 3, Rules: 0,
				Updated: at.Add(-76 * time.Hour), Change: Change{3, 0, 0}, Checked: at.Add(-4 * time.Minute),
				File: "/var/db/ThreatSTOP-Allow.pftable", FileWritten: at.Add(-700 * time.Hour), FileEntries: 3},
		},
		PF: PF{Running: true, Limit: 200000, Used: 26430, Reload: 26427},
		Hits: Hits{
			Mode: "hits", Interface: "pflog0", Capturing: true, Seen: 120345, Matched: 33120,
			Lists: []ListHits{{"basic.threatstop.local", 33120}},
			Hour: Top{From: at.Add(-time.Hour), Hits: 312,
				Addresses: []Counted{{"198.51.100.7", 120, 0}, {"2001:db8:1234:5678:9abc:def0:1234:5678", 66, 0}, {"203.0.113.99", 14, 0}},
				Ports:     []Counted{{"22/tcp", 200, 0}, {"53/udp", 80, 0}, {"icmp", 32, 0}},
				Lists:     []Counted{{"basic.threatstop.local", 312, 0}}},
			Day: Top{From: at.Add(-24 * time.Hour), Hits: 4711,
				Addresses: []Counted{{"198.51.100.7", 1200, 31}, {"203.0.113.99", 400, 31}},
				Ports:     []Counted{{"22/tcp", 2000, 0}, {"445/tcp", 1080, 0}},
				Lists:     []Counted{{"basic.threatstop.local", 4711, 0}}},
			Hourly: Series{From: at.Truncate(time.Hour).Add(-47 * time.Hour), Counts: counts},
			Daily:  Series{From: at.Truncate(24 * time.Hour).Add(-29 * 24 * time.Hour), Counts: days},
		},
		Uploads: Uploads{
			Server: "logs.threatstop.com", Last: &Upload{at.Add(-12 * time.Minute), 120, 14201, InSeconds(420 * time.Millisecond)},
			Delivered: Volume{300, 33000, 4100000}, InMemory: 12, SpoolDir: "/var/spool/threatstop", DiskMax: 64 << 20,
			Tried: at.Add(-12 * time.Minute), Next: at.Add(3 * time.Minute),
		},
		Troubles: []Trouble{},
	}
}

// state is a healthy status with something changed, and what then needs the owner.
type state struct {
	name   string
	change func(*Status)
	needs  []string
}

const noNetwork = "dns list basic.threatstop.local: server ts-dns.threatstop.com:53: dial tcp 192.0.2.53:53: connect: no route to host"

// states are shown in testdata/NAME.txt.
var states = []state{
	{name: "healthy", change: func(*Status) {}},
	{
		name: "just_started",
		change: func(s *Status) {
			*s = Status{
				Format: Format, Version: s.Version, Config: s.Config, Started: at.Add(-2 * time.Second), Now: at, Enforced: true,
				Poll:  Poll{Running: true, Interval: s.Poll.Interval, StaleAfter: s.Poll.StaleAfter},
				Lists: []List{{Kind: "block", Name: "basic.threatstop.local"}},
				Tables: []Table{{Kind: "block", Name: "ThreatSTOP-Block", Loaded: true, Kernel: 26424, Rules: 1,
					File: "/var/db/ThreatSTOP-Block.pftable", FileWritten: at.Add(-2 * time.Hour), FileEntries: 26424}},
				PF:      PF{Running: true, Limit: 200000, Used: 26424},
				Hits:    Hits{Mode: "hits", Interface: "pflog0", Capturing: true, Hourly: Series{From: s.Hits.Hourly.From, Counts: make([]int64, HistoryHours)}},
				Uploads: Uploads{Server: "logs.threatstop.com", SpoolDir: "/var/spool/threatstop", DiskMax: 64 << 20},
			}
		},
	},
	{
		name: "no_network",
		change: func(s *Status) {
			s.Started = at.Add(-10 * time.Minute)
			s.Poll.LastGood, s.Poll.Last, s.Poll.Next = time.Time{}, at.Add(-2*time.Minute), at.Add(2*time.Minute)
			s.Poll.Error = "2 of 2 lists could not be fetched: the policy in force stays"
			for i := range s.Lists {
				s.Lists[i] = List{Kind: s.Lists[i].Kind, Name: s.Lists[i].Name, Tried: at.Add(-2 * time.Minute), Failures: 4, Error: noNetwork, Retry: at.Add(2 * time.Minute)}
				s.Tables[i].Policy, s.Tables[i].Not, s.Tables[i].Updated = 0, 0, time.Time{}
				s.Tables[i].Excepted, s.Tables[i].ExceptedCount = nil, 0
			}
			s.Uploads.Last, s.Uploads.Error, s.Uploads.FailingSince = nil, "dial tcp 192.0.2.80:443: connect: no route to host", at.Add(-8*time.Minute)
			s.Troubles = []Trouble{{Text: noNetwork, Since: at.Add(-10 * time.Minute), Last: at.Add(-2 * time.Minute), Count: 4}}
		},
	},
	{
		name: "not_enforced",
		change: func(s *Status) {
			s.Enforced = false
			s.NotEnforced = "no loaded rule refers to table <ThreatSTOP-Block>: add `block drop log quick from <ThreatSTOP-Block>` and `block drop log quick to <ThreatSTOP-Block>` to pf.conf, and load it with pfctl -f /etc/pf.conf"
			s.Tables[0].Rules = 0
		},
		needs: []string{"not enforced: no loaded rule refers to table <ThreatSTOP-Block>: add `block drop log quick from <ThreatSTOP-Block>` and `block drop log quick to <ThreatSTOP-Block>` to pf.conf, and load it with pfctl -f /etc/pf.conf"},
	},
	{
		name: "unsure", // no alarm: nothing is known to be wrong
		change: func(s *Status) {
			s.Enforced, s.PF.Running, s.PF.Unknown = false, false, true
			s.PF.Notice = "OpenBSD 8.1 is newer than this program: pf's status and rules cannot be read (status: no such device)"
			s.Unsure = s.PF.Notice + "; 2 rules refer to table <ThreatSTOP-Block>, and pf has evaluated none of them in the last minute: `pfctl -si` shows whether pf is enabled"
		},
	},
	{
		name: "stale",
		change: func(s *Status) {
			s.Lists[0].Fetched, s.Lists[0].Kept, s.Lists[0].Failures, s.Lists[0].Error = at.Add(-5*time.Hour), true, 7, noNetwork
			s.Lists[0].Retry = at.Add(3 * time.Minute)
			s.Poll.LastGood = at.Add(-5 * time.Hour)
		},
		needs: []string{"block list basic.threatstop.local: stale, last fetched 5h ago (limit 3h): server ts-dns.threatstop.com:53: dial tcp 192.0.2.53:53: connect: no route to host"},
	},
	{
		name: "held_back",
		change: func(s *Status) {
			s.Tables[0].Held = &Held{Why: "1200 entries instead of 26424 in force, 95.5% fewer (limit 50%): held since 2026-03-04 12:00, until 2026-03-05 12:00 or --force",
				Entries: 1200, Since: at.Add(-19 * time.Minute), Until: at.Add(24*time.Hour - 19*time.Minute), Forcible: true}
		},
		needs: []string{"pf table ThreatSTOP-Block: held back: 1200 entries instead of 26424 in force, 95.5% fewer (limit 50%): held since 2026-03-04 12:00, until 2026-03-05 12:00 or --force; `threatstopd --sync-now --force` enforces it now"},
	},
	{
		name: "everything",
		change: func(s *Status) {
			s.Enforced, s.NotEnforced = false, "pf is disabled: pfctl -e enables it"
			s.Poll.Running = true
			s.Lists[0].Fetched, s.Lists[0].Kept, s.Lists[0].Failures, s.Lists[0].Error = at.Add(-50*time.Hour), true, 1, noNetwork
			s.Lists = append(s.Lists, List{Kind: "block", Name: "a-list-with-a-name.of-a-customer-that-is-rather-long.threatstop.local", Server: "[2001:db8:1234:5678:9abc:def0:1234:5678]:5353",
				Parts: 260, Entries: 1234567, Fetched: at.Add(-time.Minute)},
				List{Kind: "block", Name: "strange.threatstop.local", Error: "server says \"\x1b[2J\x07h\u00e9llo\nworld\"", Failures: 2, Tried: at.Add(-time.Hour)})
			b := &s.Tables[0]
			b.Kernel, b.Drift = 26425, Drift{3, at.Add(-3 * time.Hour), Change{12, 3, 1}}
			b.Excepted = append(b.Excepted, Excepted{netip.MustParsePrefix("10.0.0.0/8"), "network of em1", 12, 1, []string{"basic.threatstop.local", "strange.threatstop.local"}},
				Excepted{netip.MustParsePrefix("2001:db8::/32"), "NEVER_BLOCK", 0, 2, nil}, Excepted{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Why: "loopback", Inside: 1})
			b.ExceptedCount = 130
			b.Dropped = []Dropped{{"0.0.0.0/0", "basic.threatstop.local", "wider than MIN_PREFIX_V4 allows (8)"}, {"!10.0.0.0/7", "basic.threatstop.local", "wider than MIN_PREFIX_V4 allows (8)"}}
			b.DroppedCount = 2
			s.Tables[1].Kernel, s.Tables[1].Error = -1, "pf table ThreatSTOP-Allow: set 3 addresses: cannot allocate memory (used 199999 + new 3 > limit 200000)"
			s.PF.Running, s.PF.Limit, s.PF.Advice = false, 50000, "pf.conf cannot be loaded again (used 26430 + files 26427 > limit 50000): write `set limit table-entries 100000` into it, above the table lines"
			s.Hits.Capturing, s.Hits.Error = false, "pflog0: interface is gone: device not configured"
			s.Hits.CatchUp = "reading /var/log/pflog.0.gz"
			s.Hits.Lists = append(s.Hits.Lists, ListHits{"strange.threatstop.local", 12})
			s.Hits.Since = at.Add(-100 * time.Hour)
			s.Hits.Drops = []Drop{{DropKernel, 12, at.Add(-time.Hour)}, {DropMemory, 0, time.Time{}}, {DropSpoolFull, 4000, at.Add(-2 * time.Hour)},
				{DropSpoolAge, 10, at.Add(-30 * time.Hour)}, {"gone_fishing", 1, time.Time{}}}
			u := &s.Uploads
			u.Error, u.FailingSince, u.Failures = "POST https://logs.threatstop.com/: 503 Service Unavailable", at.Add(-26*time.Hour), 104
			u.Spool, u.DiskUsed = Volume{640, 640000, 60 << 20}, 60<<20
			u.Aside, u.AsideError = Volume{2, 2000, 300000}, "413 Request Entity Too Large"
			s.Troubles = []Trouble{{Text: noNetwork, Since: at.Add(-50 * time.Hour), Count: 50}, {Text: "syslog: connect: connection refused", Since: at.Add(-time.Minute), Count: 1, NeedsOwner: true}}
		},
		needs: []string{
			"not enforced: pf is disabled: pfctl -e enables it",
			"block list basic.threatstop.local: stale, last fetched 2d2h ago (limit 3h): server ts-dns.threatstop.com:53: dial tcp 192.0.2.53:53: connect: no route to host",
			"block list strange.threatstop.local: stale, never fetched (limit 3h): server says \"\x1b[2J\x07h\u00e9llo\nworld\"",
			"pf table ThreatSTOP-Block: has 26425 entries, the policy 26424: something else writes to it",
			"pf table ThreatSTOP-Allow: set 3 addresses: cannot allocate memory (used 199999 + new 3 > limit 200000)",
			"pf.conf cannot be loaded again (used 26430 + files 26427 > limit 50000): write `set limit table-entries 100000` into it, above the table lines",
			"not reading pflog: pflog0: interface is gone: device not configured",
			"2 batches refused by the log server (413 Request Entity Too Large): 2000 lines set aside in /var/spool/threatstop/refused",
			"4000 hits lost: the oldest of a full spool, last 2h ago",
			"uploads have failed for 1d2h: POST https://logs.threatstop.com/: 503 Service Unavailable",
			"the spool is filling up: 60M of 64M (SPOOL_MAX) in /var/spool/threatstop",
			"syslog: connect: connection refused",
		},
	},
	{
		name: "files_only",
		change: func(s *Status) {
			for i := range s.Tables {
				s.Tables[i].Loaded, s.Tables[i].Kernel, s.Tables[i].FileWritten = false, 26000-26000*i, time.Time{}
			}
			s.Hits, s.Uploads = Hits{Mode: "no"}, Uploads{}
		},
	},
	{
		name: "not_known",
		change: func(s *Status) {
			s.Enforced, s.NotEnforced, s.Unsure, s.NotKnown = false, "", "", "main has not reported for 130 s"
			s.Poll.Running, s.Poll.Applying = true, at.Add(-130*time.Second)
			s.Tables[0].Kernel = 7
		},
		needs: []string{"not known: main has not reported for 130 s"},
	},
	{
		name: "needs_you",
		change: func(s *Status) {
			s.Uploads.Aside, s.Uploads.AsideError = Volume{8, 7312, 1 << 20}, "403"
			s.Troubles = []Trouble{{Text: "OUT_DIR is not a key: see threatstop.conf(5)", Since: at.Add(-time.Hour), NeedsOwner: true}}
		},
		needs: []string{"8 batches refused by the log server (403): 7312 lines set aside in /var/spool/threatstop/refused", "OUT_DIR is not a key: see threatstop.conf(5)"},
	},
	{name: "empty", change: func(s *Status) { *s = Status{} }, needs: []string{"not known: the state of pf has not been read yet"}},
}

func (x *state) status() *Status {
	s := healthy()
	x.change(s)
	return s
}

// prefixes has cmp compare what it cannot look into.
var prefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
