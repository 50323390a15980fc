package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Files that name resolvers of this host: its own, and the forwarders of a local resolver.
const (
	ResolvConf  = "/etc/resolv.conf"
	UnwindConf  = "/etc/unwind.conf"
	UnboundConf = "/var/unbound/etc/unbound.conf"
)

// ResolverFiles are all of them.
var ResolverFiles = []string{ResolvConf, UnwindConf, UnboundConf}

const (
	// maxResolverFile is more than anybody's file has, in bytes.
	maxResolverFile = 1 << 20
	// maxResolvers is how many resolvers one file may name. Those in resolv.conf may come from any DHCP server
	// on the link, and each is an exception to the policy.
	maxResolvers = 32
)

// resolvers returns the resolvers that files name, each once and sorted. The kind of a file is its base name.
// A file that does not exist names none.
func resolvers(files []string) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, path := range files {
		text, err := readConf(path)
		if err != nil {
			return nil, err
		}
		found, _ := parseResolvers(path, text)
		all = append(all, found[:min(len(found), maxResolvers)]...)
	}
	return unique(all), nil
}

// Unseen returns what of these files is not followed: included files, since a confined process cannot open
// them, and resolvers beyond the first 32 of a file.
func Unseen(files []string) []string {
	var all []string
	for _, path := range files {
		text, err := readConf(path)
		found, includes := parseResolvers(path, text)
		switch {
		case err != nil:
			all = append(all, err.Error())
		case len(found) > maxResolvers:
			all = append(all, fmt.Sprintf("%s names %d resolvers: only the first %d are never blocked", path, len(found), maxResolvers))
		}
		for _, i := range includes {
			all = append(all, fmt.Sprintf("%s includes %s, which is not read", path, i))
		}
	}
	return all
}

func readConf(path string) ([]byte, error) {
	// Without O_NONBLOCK open would wait for the writer of a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResolverFile+1))
	if err == nil && len(text) > maxResolverFile {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxResolverFile)
	}
	return text, err
}

// parseResolvers returns the resolvers that a file names, in its order, and the files that it includes.
func parseResolvers(path string, text []byte) (all []netip.Addr, includes []string) {
	switch {
	case strings.HasSuffix(path, "unwind.conf"):
		all, includes = parseUnwind(string(text))
	case strings.HasSuffix(path, "unbound.conf"):
		all, includes = parseUnbound(string(text))
	default:
		all = parseResolv(string(text))
	}
	seen := make(map[netip.Addr]bool)
	return slices.DeleteFunc(all, func(a netip.Addr) bool {
		again := seen[a]
		seen[a] = true
		return again
	}), includes
}

// parseResolv reads resolv.conf(5). While unwind(8) runs, resolvd(8) comments out the resolvers behind it:
// "#nameserver 192.0.2.53 # resolvd: em0". A nameserver in another comment is not one.
func parseResolv(text string) (all []netip.Addr) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" && !(words[0] == "#nameserver" && strings.Contains(line, "# resolvd: ")) {
			continue
		}
		s := words[1]
		if host, _, err := net.SplitHostPort(s); err == nil {
			s = host // OpenBSD's resolv.conf may have [address]:port
		}
		all = appendAddr(all, s)
	}
	return all
}

func appendAddr(all []netip.Addr, s string) []netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil {
		all = append(all, a.WithZone("").Unmap())
	}
	return all
}

// unwindWord is a string, a sign or a word of unwind.conf(5).
var unwindWord = regexp.MustCompile(`"[^"\n]*"|#[^\n]*|[{}=\n]|[^\s{}="#]+`)

// parseUnwind reads unwind.conf(5): the addresses behind forwarder, alone or in braces, and macros.
func parseUnwind(text string) (all []netip.Addr, includes []string) {
	words := unwindWord.FindAllString(strings.ReplaceAll(text, "\\\n", " "), -1)
	macros := make(map[string]string)
	forwarder, depth := false, 0
	for i, w := range words {
		w = strings.Trim(w, `"`)
		next := ""
		if i+1 < len(words) {
			next = strings.Trim(words[i+1], `"`)
		}
		switch {
		case w == "{":
			depth++
		case w == "}":
			depth = max(depth-1, 0)
			forwarder = forwarder && depth > 0
		case w == "\n":
			forwarder = forwarder && depth > 0
		case w == "forwarder":
			forwarder = true
		case w == "include" && depth == 0:
			includes = append(includes, next)
		case w == "=" && i > 0 && i+1 < len(words):
			macros[words[i-1]] = next
		case forwarder:
			if name, ok := strings.CutPrefix(w, "$"); ok {
				w = macros[name]
			}
			all = appendAddr(all, w)
		}
	}
	return all, includes
}

// parseUnbound reads unbound.conf(5): each "forward-addr: address[@port][#name]", and each stub-addr.
func parseUnbound(text string) (all []netip.Addr, includes []string) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		for i := 0; i+1 < len(words) && !strings.HasPrefix(words[i], "#"); i++ {
			value := strings.Trim(words[i+1], `"`)
			switch words[i] {
			case "forward-addr:", "stub-addr:":
				if at := strings.IndexAny(value, "@#"); at >= 0 {
					value = value[:at]
				}
				all = appendAddr(all, value)
			case "include:", "include-toplevel:":
				includes = append(includes, value)
			}
		}
	}
	return all, includes
}

// unique sorts a and drops repetitions.
func unique(a []netip.Addr) []netip.Addr {
	slices.SortFunc(a, netip.Addr.Compare)
	return slices.Compact(a)
}
