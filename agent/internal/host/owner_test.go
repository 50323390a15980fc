package host

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

func TestStranger(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stat := func() os.FileInfo {
		t.Helper()
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	if uid, ok := Owner(stat()); !ok || uid != os.Geteuid() {
		t.Errorf("our own file: %d, %v", uid, ok)
	}
	if uid, is := Stranger(stat()); is {
		t.Errorf("our own file is a stranger's, of %d", uid)
	}
	fi, err := os.Stat("/")
	if err != nil {
		t.Fatal(err)
	}
	if uid, is := Stranger(fi); is {
		t.Errorf("/ is a stranger's, of %d", uid)
	}
	if _, ok := Owner(memoryFile(t)); ok {
		t.Error("a file in memory has an owner")
	}
	if _, is := Stranger(memoryFile(t)); is {
		t.Error("a file in memory is a stranger's")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	if err := os.Chown(name, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if uid, is := Stranger(stat()); !is || uid != 12345 {
		t.Errorf("the file of another: %d, %v", uid, is)
	}
}

func memoryFile(t *testing.T) os.FileInfo {
	t.Helper()
	fi, err := fstest.MapFS{"file": {}}.Stat("file")
	if err != nil {
		t.Fatal(err)
	}
	return fi
}
