package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Version names the source that the program was built from, as the go command
// recorded it, and with what: "v1.2.0 (3f12c8c2b1aa, go1.25.1 openbsd/amd64)".
// A revision with changes on top ends in "+".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown origin"
	}
	version, revision, dirty := info.Main.Version, "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+"
		}
	}
	if version == "" || version == "(devel)" {
		version = "devel"
	}
	if revision != "" {
		revision += dirty + ", "
	}
	return fmt.Sprintf("%s (%s%s %s/%s)", version, revision, info.GoVersion, runtime.GOOS, runtime.GOARCH)
}

// shortVersion is the first word of Version.
func shortVersion() string {
	version, _, _ := strings.Cut(Version(), " ")
	return version
}
