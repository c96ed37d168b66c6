// kured's package that System Upgrade Controller asks whether a Plan's window is open, pinned here.
module example.org/timewindow

go 1.26.0

require github.com/kubereboot/kured v1.13.1
