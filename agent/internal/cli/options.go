package cli

import (
	"fmt"
	"net/netip"
	"net/url"
	"os/user"
	"strconv"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/capture"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// The configuration is cut here into what each package needs to know of it.

func fetchOptions(c *config.Config) dnsfetch.Options {
	return dnsfetch.Options{
		Servers:    c.DNSServers,
		Source:     c.SourceAddress,
		Timeout:    c.DNSTimeout,
		Siblings:   c.DNSSiblings,
		MaxEntries: c.MaxEntries,
	}
}

func sourcesOptions(c *config.Config) sources.Options {
	return sources.Options{Block: c.BlockLists, Allow: c.AllowLists, NeverBlock: c.NeverBlock, Reach: reach(c)}
}

func applyOptions(c *config.Config, env Env) apply.Options {
	return apply.Options{
		Policy: policy.Options{MinPrefixV4: c.MinPrefixV4, MinPrefixV6: c.MinPrefixV6, Aggregate: c.Aggregate, MaxEntries: c.MaxEntries},
		Guard:  policy.Guard{MaxShrink: c.MaxShrink, Hold: c.ShrinkHold},
		Block:  apply.Target{Table: pfioctl.Table{Name: c.BlockTable}, File: c.BlockFile, Load: c.ReloadPF},
		Allow:  apply.Target{Table: pfioctl.Table{Name: c.AllowTable}, File: c.AllowFile, Load: c.ReloadPF},
		Now:    env.Now,
	}
}

// reach lists the servers that the policy must not cut off.
func reach(c *config.Config) []sources.Reach {
	var all []sources.Reach
	for _, s := range c.DNSServers {
		all = append(all, sources.Reach{Role: "policy server", Host: serverHost(s)})
	}
	for _, u := range []struct {
		role string
		*url.URL
	}{{"log server", c.URL}, {"proxy", c.Proxy}} {
		if u.URL != nil {
			all = append(all, sources.Reach{Role: u.role, Host: u.Hostname()})
		}
	}
	return all
}

// serverHost takes the port off a server as DNS_SERVERS has it.
func serverHost(s string) string {
	if _, err := netip.ParseAddr(s); err == nil {
		return s
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String()
	}
	u := url.URL{Host: s}
	return u.Hostname()
}

// reporting is what the role that reports needs to know.
func reporting(c *config.Config, u account) *report.Reporting {
	r := &report.Reporting{
		Pflog: capture.Options{Interface: c.PflogIf, Filter: capture.FilterBlock},
		Config: report.Config{
			DeviceID:   c.DeviceID,
			All:        c.Upload == config.UploadAll,
			Interval:   c.UploadInterval,
			BatchLines: c.UploadBatch,
			BatchBytes: int(c.UploadBatchBytes),
			SpoolDir:   c.SpoolDir,
			Service:    u.uid,
			SpoolMax:   c.SpoolMax,
			SpoolAge:   c.SpoolAge,
			Backfill:   c.Backfill,
		},
		Upload: uploadOptions(c),
	}
	if r.All {
		r.Pflog.Filter = capture.FilterAll
	}
	if c.PflogIf == pflogdInterface {
		r.LogFile = c.PflogFile
	} else {
		r.NoLogs = fmt.Sprintf("pflogd logs %s, not %s", pflogdInterface, c.PflogIf)
	}
	return r
}

// pflogdInterface is what pflogd reads unless its flags say otherwise
// (pflogd(8)).
const pflogdInterface = "pflog0"

func uploadOptions(c *config.Config) report.UploadOptions {
	o := report.UploadOptions{
		URL:         c.URL.String(),
		AllowHTTP:   c.AllowHTTP,
		DeviceID:    c.DeviceID,
		FileField:   c.UploadField,
		DeviceField: c.UploadIDField,
		Gzip:        c.UploadGzip,
		Version:     shortVersion(),
		Source:      c.SourceAddress,
		CAFile:      c.CAFile,
	}
	if c.Proxy != nil {
		o.Proxy = c.Proxy.String()
	}
	return o
}

// account is a user's numbers, 0 when there is no such user.
type account struct{ uid, gid int }

func lookupUser(name string) account {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}
	}
	uid, errU := strconv.Atoi(u.Uid)
	gid, errG := strconv.Atoi(u.Gid)
	if errU != nil || errG != nil {
		return account{}
	}
	return account{uid, gid}
}
