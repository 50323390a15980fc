package report

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A symbolic link as the log, or as its directory, is followed where nobody else can change
// what it leads to; rotated files are found beside the link and beside the file.
func TestOpenLogsOfALink(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string) // dir/log/pflog is opened, dir/data is elsewhere
		want string                         // names, or a part of the error
	}{
		{"a link to the file", func(t *testing.T, dir string) {
			logFile(t, dir+"/data/pflog", false, hit(3))
			logFile(t, dir+"/data/pflog.0", false, hit(2))
			logFile(t, dir+"/log/pflog.1.gz", true, hit(1))
			os.Symlink("../data/pflog", dir+"/log/pflog")
		}, "pflog.1.gz pflog.0 pflog"},
		{"a link as the directory", func(t *testing.T, dir string) {
			logFile(t, dir+"/data/pflog", false, hit(3))
			logFile(t, dir+"/data/pflog.0", false, hit(2))
			os.Remove(dir + "/log")
			os.Symlink(dir+"/data", dir+"/log")
		}, "pflog.0 pflog"},
		{"a link to a link, in a directory that others can write to", func(t *testing.T, dir string) {
			logFile(t, dir+"/data/pflog", false, hit(3))
			os.Mkdir(dir+"/open", 0o700)
			os.Symlink(dir+"/data/pflog", dir+"/open/x")
			os.Chmod(dir+"/open", 0o777)
			os.Symlink(dir+"/open/x", dir+"/log/pflog")
		}, "open has mode 0777: chmod go-w it"},
		{"a file that others can write to", func(t *testing.T, dir string) {
			logFile(t, dir+"/data/pflog", false, hit(3))
			os.Chmod(dir+"/data/pflog", 0o666)
			os.Symlink(dir+"/data/pflog", dir+"/log/pflog")
		}, "pflog has mode 0666: chmod go-w it"},
		{"another's file", func(t *testing.T, dir string) {
			logFile(t, dir+"/data/pflog", false, hit(3))
			if os.Chown(dir+"/data/pflog", 12345, 12345) != nil {
				t.Skip("needs root")
			}
			os.Symlink(dir+"/data/pflog", dir+"/log/pflog")
		}, "belongs to uid 12345: chown root it"},
		{"a link to nothing", func(t *testing.T, dir string) { os.Symlink(dir+"/none", dir+"/log/pflog") }, "no such file"},
		{"a link to itself", func(t *testing.T, dir string) { os.Symlink(dir+"/log/pflog", dir+"/log/pflog") }, "too many links"},
		{"a FIFO", func(t *testing.T, dir string) { syscall.Mkfifo(dir+"/log/pflog", 0o600) }, "is not a regular file"},
		{"a link to a FIFO", func(t *testing.T, dir string) {
			syscall.Mkfifo(dir+"/data/pflog", 0o600)
			os.Symlink(dir+"/data/pflog", dir+"/log/pflog")
		}, "is not a regular file"},
		{"a directory", func(t *testing.T, dir string) { os.Mkdir(dir+"/log/pflog", 0o700) }, "is not a regular file"},
		{"nothing", func(*testing.T, string) {}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			os.Mkdir(dir+"/log", 0o700)
			os.Mkdir(dir+"/data", 0o700)
			tt.make(t, dir)
			files, err := OpenLogs(dir + "/log/pflog")
			defer closeAll(files)
			if err != nil {
				if tt.want == "" || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				return
			}
			var names []string
			for _, f := range files {
				names = append(names, filepath.Base(f.Name()))
			}
			equal(t, "opened", strings.Join(names, " "), tt.want)
		})
	}
}
